//! `spsam doctor`.

use std::process::Command;

use eyre::{Result, bail};
use self_prompt_sam::runtime::{Settings, compute};
use self_prompt_sam::versions::{self, DORA};

pub fn run() -> Result<()> {
    let checks = [
        ("self-prompt-sam", Ok(versions::SELF_PROMPT_SAM.into())),
        ("project folder", super::project().map(|p| p.display().to_string()).map_err(|e| e.to_string())),
        ("dora", dora()),
        ("device", device()),
        ("libtorch", Ok(libtorch())),
        ("model", model()),
    ];
    let mut missing = 0;
    for (what, state) in checks {
        match state {
            Ok(found) => println!("ok       {what}: {found}"),
            Err(how) => {
                missing += 1;
                println!("missing  {what}: {how}");
            }
        }
    }
    match missing {
        0 => Ok(()),
        n => bail!("{n} things are missing"),
    }
}

fn dora() -> Result<String, String> {
    let dora = super::dora();
    let output = Command::new(&dora).arg("--version").output().map_err(|error| {
        format!("{}: {error}; run `cargo xtask setup` or `pip install dora-rs-cli=={DORA}`", dora.display())
    })?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    match text.contains(DORA) {
        true => Ok(format!("{text} ({})", dora.display())),
        false => {
            Err(format!("{} says `{text}`, the nodes need {DORA}: run `cargo xtask setup`", dora.display()))
        }
    }
}

fn device() -> Result<String, String> {
    let compute = compute().map_err(|error| format!("{error:#}"))?;
    Ok(format!("{:?}, {}", compute.device, compute.precision().name()))
}

fn libtorch() -> String {
    format!(
        "{}, {} threads, {} CUDA devices, cuDNN {}",
        versions::torch(),
        tch::get_num_threads(),
        tch::Cuda::device_count(),
        if tch::Cuda::cudnn_is_available() { "yes" } else { "no" }
    )
}

fn model() -> Result<String, String> {
    let bundle = Settings::from_env().and_then(|settings| settings.bundle());
    let bundle = bundle.map_err(|error| format!("{error:#}"))?;
    let weights = bundle.path_of(&bundle.config.weights);
    self_prompt_sam::weights::check_sha256(&weights, &bundle.config.weights.sha256)
        .map_err(|error| error.to_string())?;
    Ok(format!("{}, weights {}", bundle.config.name, weights.display()))
}
