//! Prompt extractor: a point, a box and a mask for each class of each slice, from auxiliary masks or labels.

use std::process::ExitCode;

use self_prompt_sam::runtime::{PromptStage, Settings, node_main, run_stage};
use self_prompt_sam::segmenter::prompt_strategy;

fn main() -> ExitCode {
    node_main(|| {
        let bundle = Settings::from_env()?.bundle()?;
        run_stage(PromptStage::new(prompt_strategy(&bundle)))
    })
}
