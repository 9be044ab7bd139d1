//! Metrics writer: label maps on the original grid, figures, report.

use std::process::ExitCode;

use self_prompt_sam::runtime::{Settings, node_main, writer::Writer};

fn main() -> ExitCode {
    node_main(|| {
        let settings = Settings::from_env()?;
        let bundle = settings.bundle()?;
        Writer::new(&settings, &bundle)?.run()
    })
}
