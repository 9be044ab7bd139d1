//! Prompt generator: auxiliary masks from the encoder's features (MSPGenerator).

use std::process::ExitCode;

use eyre::Result;
use self_prompt_sam::message::WireKind;
use self_prompt_sam::runtime::{
    Emit, Input, InputKind, Settings, Stage, Window, compute, node_main, run_stage,
};
use self_prompt_sam::segmenter::AuxiliaryGenerator;

const FEATURES: Input = Input { name: "features", kind: InputKind::Floats };

struct GeneratorStage {
    generator: AuxiliaryGenerator,
}

impl Stage for GeneratorStage {
    fn inputs(&self) -> &'static [Input] {
        &[FEATURES]
    }

    fn process(&mut self, window: Window, emit: &mut Emit<'_>) -> Result<()> {
        let logits = self.generator.forward(&window.levels(FEATURES.name))?;
        emit.slices("aux_masks", &window.header, &logits, WireKind::Float32, None);
        Ok(())
    }
}

fn main() -> ExitCode {
    node_main(|| {
        let bundle = Settings::from_env()?.bundle()?;
        run_stage(GeneratorStage { generator: AuxiliaryGenerator::load(&bundle, compute()?)? })
    })
}
