//! Mask decoder: SAM's prompt encoder and mask decoder with adapters, then the MC-Adapter.

use std::process::ExitCode;

use eyre::Result;
use self_prompt_sam::compute::Compute;
use self_prompt_sam::network::segmenter::Decoder;
use self_prompt_sam::runtime::training::{DecoderLearner, TrainingRun, run_part};
use self_prompt_sam::runtime::{
    Emit, Input, InputKind, Settings, Stage, Window, compute, compute_in, decode_window_prompts, node_main,
    run_stage,
};

const EMBEDDING: Input = Input { name: "embedding", kind: InputKind::Floats };
const PROMPTS: Input = Input { name: "prompts", kind: InputKind::Prompts };

struct DecoderStage {
    decoder: Decoder,
    compute: Compute,
}

impl Stage for DecoderStage {
    fn inputs(&self) -> &'static [Input] {
        &[EMBEDDING, PROMPTS]
    }

    fn network(&self) -> Option<Compute> {
        Some(self.compute)
    }

    fn process(&mut self, window: Window, emit: &mut Emit<'_>) -> Result<()> {
        let prompts = decode_window_prompts(&window, self.decoder.mask_size())?;
        let levels = window.levels(EMBEDDING.name);
        let embedding: Vec<_> = levels.iter().map(|level| self.compute.receive(level)).collect();
        let logits = self.decoder.forward(&embedding, &prompts)?;
        emit.slices("logits", &window.header, &logits, self.compute.wire(), None);
        Ok(())
    }
}

fn main() -> ExitCode {
    node_main(|| {
        if let Some(run) = TrainingRun::from_env()? {
            let compute = compute_in(run.config.precision)?;
            return run_part(&run, DecoderLearner::new(&run.of_parts()?, compute)?);
        }
        let bundle = Settings::from_env()?.bundle()?;
        let compute = compute()?;
        run_stage(DecoderStage { decoder: Decoder::load(&bundle, compute)?, compute })
    })
}
