//! Volume loader: reads cases, cuts them into windows and sends the slices until every case is on disk.

use std::process::ExitCode;

use self_prompt_sam::runtime::{Settings, loader::Loader, node_main};

fn main() -> ExitCode {
    node_main(|| {
        let settings = Settings::from_env()?;
        let bundle = settings.bundle()?;
        Loader::new(settings, &bundle)?.run()
    })
}
