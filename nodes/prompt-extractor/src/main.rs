//! Prompt extractor: a point, a box and a mask for each class of each slice, from auxiliary masks or labels. In
//! training it does the same with the masks of the generator in training, or draws prompts of other kinds.

use std::process::ExitCode;

use self_prompt_sam::network::segmenter::prompt_strategy;
use self_prompt_sam::runtime::training::{TrainingPromptStage, TrainingRun};
use self_prompt_sam::runtime::{PromptStage, Settings, node_main, run_stage};
use self_prompt_sam::training::TrainingPrompts;

fn main() -> ExitCode {
    node_main(|| match TrainingRun::from_env()? {
        Some(run) => run_stage(TrainingPromptStage::new(TrainingPrompts::of_config(&run.config))),
        None => run_stage(PromptStage::new(prompt_strategy(&Settings::from_env()?.bundle()?))),
    })
}
