//! Volume loader: reads cases, divides them into windows and sends the slices until every case is written; in
//! training, draws windows for every step; live, takes images as they arrive.

use std::process::ExitCode;

use self_prompt_sam::runtime::training::{TrainingRun, run_loader};
use self_prompt_sam::runtime::{Settings, live::LiveLoader, loader::Loader, node_main};

fn main() -> ExitCode {
    node_main(|| {
        if let Some(run) = TrainingRun::from_env()? {
            return run_loader(&run);
        }
        let settings = Settings::from_env()?;
        let bundle = settings.bundle()?;
        if LiveLoader::is_asked_for()? {
            return LiveLoader::new(settings, &bundle)?.run();
        }
        Loader::new(settings, &bundle)?.run()
    })
}
