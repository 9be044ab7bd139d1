//! A small training and its messages, for the tests of this folder.

use std::path::Path;

use arrow::array::ArrayRef;
use tch::Tensor;

use crate::message::{SliceHeader, WireKind, encode_tensor};
use crate::runtime::input::{Input, InputKind};
use crate::training::{OptimiserConfig, Rule, TrainingConfig};

pub(super) const A: Input = Input { name: "a", kind: InputKind::Floats };
pub(super) const B: Input = Input { name: "b", kind: InputKind::Floats };

/// One step of the first stage, then the second stage; two windows per step.
pub(super) fn config() -> TrainingConfig {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/hippocampus-scratch.yml");
    let mut config = TrainingConfig::open(&shipped).unwrap();
    config.schedule.iterations_per_epoch = 1;
    config.schedule.generator_only_epochs = 1;
    config.schedule.windows_per_step = 2;
    let rule = Rule::Sgd { momentum: 0.0, nesterov: false, weight_decay: 0.0 };
    config.optimiser = OptimiserConfig { rule, clip_norm: None, average: None };
    config
}

pub(super) fn header(segment_id: i64, attempt: i64, seq: i64, count: i64) -> SliceHeader {
    SliceHeader {
        session_id: "s".into(),
        segment_id,
        attempt,
        seq,
        count,
        case_id: "case".into(),
        classes: 2,
        level: None,
        slices: None,
        image_size: None,
        covered: None,
        times: Default::default(),
        shape: vec![1],
    }
}

pub(super) fn array(value: f32) -> ArrayRef {
    encode_tensor(&Tensor::from_slice(&[value]), WireKind::Float32)
}
