//! `spsam doctor`.

use std::process::Command;

use eyre::{Result, bail};
use self_prompt_sam::runtime::{Settings, compute};
use self_prompt_sam::versions::{self, DORA};

pub fn run() -> Result<()> {
    let mut missing = 0;
    let mut line = |what: &str, state: Result<String, String>| match state {
        Ok(found) => println!("ok       {what}: {found}"),
        Err(how) => {
            missing += 1;
            println!("missing  {what}: {how}");
        }
    };
    line("self-prompt-sam", Ok(versions::SELF_PROMPT_SAM.into()));
    line("project folder", super::project().map(|p| p.display().to_string()).map_err(|e| e.to_string()));
    let dora = super::dora();
    let version = Command::new(&dora).arg("--version").output();
    line(
        "dora",
        match version {
            Ok(output) => {
                let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
                match text.contains(DORA) {
                    true => Ok(format!("{text} ({})", dora.display())),
                    false => Err(format!(
                        "{} says `{text}`, the nodes need {DORA}: run `cargo xtask setup`",
                        dora.display()
                    )),
                }
            }
            Err(error) => Err(format!(
                "{}: {error}; run `cargo xtask setup` or `pip install dora-rs-cli=={DORA}`",
                dora.display()
            )),
        },
    );
    let compute = compute().map(|compute| format!("{:?}, {}", compute.device, compute.precision().name()));
    line("device", compute.map_err(|error| format!("{error:#}")));
    let devices = tch::Cuda::device_count();
    line(
        "libtorch",
        Ok(format!(
            "{}, {} threads, {} CUDA devices, cuDNN {}",
            versions::torch(),
            tch::get_num_threads(),
            devices,
            if tch::Cuda::cudnn_is_available() { "yes" } else { "no" }
        )),
    );
    let bundle = Settings::from_env().and_then(|settings| settings.bundle());
    line(
        "model",
        match bundle {
            Ok(bundle) => {
                let weights = bundle.path_of(&bundle.config.weights);
                self_prompt_sam::weights::check_sha256(&weights, &bundle.config.weights.sha256)
                    .map(|()| format!("{}, weights {}", bundle.config.name, weights.display()))
                    .map_err(|error| error.to_string())
            }
            Err(error) => Err(format!("{error:#}")),
        },
    );
    match missing {
        0 => Ok(()),
        n => bail!("{n} things are missing"),
    }
}
