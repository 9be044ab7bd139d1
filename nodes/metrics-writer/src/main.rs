//! Metrics writer: label maps on the original grid, metrics, report; in training it leads the run.

use std::process::ExitCode;

use self_prompt_sam::runtime::training::{TrainingRun, run_writer};
use self_prompt_sam::runtime::{Settings, compute_in, node_main, writer::Writer};

fn main() -> ExitCode {
    node_main(|| {
        if let Some(run) = TrainingRun::from_env()? {
            return run_writer(&run, compute_in(run.config.precision)?);
        }
        let settings = Settings::from_env()?;
        let bundle = settings.bundle()?;
        Writer::new(&settings, &bundle)?.run()
    })
}
