//! Image encoder: MAdapter and SAM's image encoder with adapters in every block.

use std::process::ExitCode;

use eyre::Result;
use self_prompt_sam::bundle::Dataflow;
use self_prompt_sam::compute::Compute;
use self_prompt_sam::network::segmenter::Encoder;
use self_prompt_sam::runtime::training::{EncoderLearner, TrainingRun, run_part};
use self_prompt_sam::runtime::{
    Emit, Input, InputKind, Settings, Stage, Window, check_edges, compute, compute_in, node_main, run_stage,
};
use tch::Kind;

const SLICES: Input = Input { name: "slices", kind: InputKind::Floats };

struct EncoderStage {
    encoder: Encoder,
    compute: Compute,
}

impl Stage for EncoderStage {
    fn inputs(&self) -> &'static [Input] {
        &[SLICES]
    }

    fn network(&self) -> Option<Compute> {
        Some(self.compute)
    }

    fn process(&mut self, window: Window, emit: &mut Emit<'_>) -> Result<()> {
        let slices = window.tensor(SLICES.name, 0).to_kind(Kind::Float);
        let encoded = self.encoder.forward(&slices, window.header.covered)?;
        let wire = self.compute.wire();
        let for_decoder = encoded.for_decoder();
        let levels = for_decoder.len() as i64;
        for (level, tensor) in (0..).zip(&for_decoder) {
            // The embedding alone is no level.
            let level = (levels > 1).then_some((level, levels));
            emit.slices("embedding", &window.header, tensor, wire, level);
        }
        let levels = encoded.taps.len() as i64;
        for (level, tap) in (0..).zip(&encoded.taps) {
            emit.slices("features", &window.header, tap, wire, Some((level, levels)));
        }
        Ok(())
    }
}

fn main() -> ExitCode {
    node_main(|| {
        if let Some(run) = TrainingRun::from_env()? {
            let compute = compute_in(run.config.precision)?;
            check_edges(&run.config.model.without_files(), Dataflow::Training, compute)?;
            return run_part(&run, EncoderLearner::new(&run.of_parts()?, compute)?);
        }
        let bundle = Settings::from_env()?.bundle()?;
        let compute = compute()?;
        check_edges(&bundle.config, Dataflow::Segmentation, compute)?;
        run_stage(EncoderStage { encoder: Encoder::load(&bundle, compute)?, compute })
    })
}
