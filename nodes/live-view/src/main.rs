//! Live view: shows live segmentation in a browser.

use std::process::ExitCode;

use self_prompt_sam_light::runtime::small_node_main;
use self_prompt_sam_light::runtime::view::{View, ViewSettings};

fn main() -> ExitCode {
    small_node_main(|| View::new(&ViewSettings::from_env()?)?.run())
}
