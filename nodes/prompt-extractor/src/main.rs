//! Prompt extractor: a point, a box and a mask for each class of each slice, from auxiliary masks or labels. In
//! training it does the same with the masks of the generator in training.

use std::path::PathBuf;
use std::process::ExitCode;

use self_prompt_sam::bundle::Bundle;
use self_prompt_sam::network::segmenter::prompt_strategy;
use self_prompt_sam::runtime::training::TrainingRun;
use self_prompt_sam::runtime::{PromptStage, Settings, node_main, run_stage};

fn main() -> ExitCode {
    node_main(|| {
        let bundle = match TrainingRun::from_env()? {
            Some(run) => Bundle { folder: PathBuf::new(), config: run.config.model.without_files() },
            None => Settings::from_env()?.bundle()?,
        };
        run_stage(PromptStage::new(prompt_strategy(&bundle)))
    })
}
