//! Scanner source: receives DICOM images from scanners and a watched folder, and sends them on image by image.

use std::process::ExitCode;

use self_prompt_sam_light::runtime::small_node_main;
use self_prompt_sam_light::runtime::source::{Source, SourceSettings};

fn main() -> ExitCode {
    small_node_main(|| Source::new(&SourceSettings::from_env()?)?.run())
}
