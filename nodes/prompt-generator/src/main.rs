//! Prompt generator: auxiliary masks from the encoder's features (MSPGenerator).

use std::process::ExitCode;

use eyre::Result;
use self_prompt_sam::compute::Compute;
use self_prompt_sam::network::segmenter::AuxiliaryGenerator;
use self_prompt_sam::runtime::training::{GeneratorLearner, TrainingRun, run_part};
use self_prompt_sam::runtime::{
    Emit, Input, InputKind, Settings, Stage, Window, compute, compute_in, node_main, run_stage,
};
use tch::Tensor;

const FEATURES: Input = Input { name: "features", kind: InputKind::Floats };

struct GeneratorStage {
    generator: AuxiliaryGenerator,
    compute: Compute,
}

impl Stage for GeneratorStage {
    fn inputs(&self) -> &'static [Input] {
        &[FEATURES]
    }

    fn network(&self) -> Option<Compute> {
        Some(self.compute)
    }

    fn process(&mut self, window: Window, emit: &mut Emit<'_>) -> Result<()> {
        let levels = window.levels(FEATURES.name);
        let features: Vec<Tensor> = levels.iter().map(|level| self.compute.receive(level)).collect();
        let logits = self.generator.forward(&features)?;
        emit.slices("aux_masks", &window.header, &logits, self.compute.wire(), None);
        Ok(())
    }
}

fn main() -> ExitCode {
    node_main(|| {
        if let Some(run) = TrainingRun::from_env()? {
            let compute = compute_in(run.config.precision)?;
            return run_part(&run, GeneratorLearner::new(&run.of_parts()?, compute)?);
        }
        let bundle = Settings::from_env()?.bundle()?;
        let compute = compute()?;
        run_stage(GeneratorStage { generator: AuxiliaryGenerator::load(&bundle, compute)?, compute })
    })
}
