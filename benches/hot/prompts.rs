//! Prompts of one slice of 256 × 256 pixels: the distance transform alone, and all kinds from logits and labels.

use criterion::Criterion;
use ndarray::{Array2, Array3};
use self_prompt_sam::bundle::PromptConfig;
use self_prompt_sam::prompt::{
    ConfiguredPrompts, PromptStrategy, SliceMasks, logits_from_labels, squared_distance_to_border,
};

use crate::{CLASSES, checked};

const SIDE: usize = 256;

/// `prompts/edt`, `prompts/from_logits`, `prompts/from_labels`.
pub fn bench(criterion: &mut Criterion) {
    let labels = rings();
    let disc = labels.mapv(|label| label > 0);
    // Irregular masks, as a network predicts them.
    let wave = Array3::from_shape_fn((CLASSES, SIDE, SIDE), |(class, y, x)| {
        ((x * (class + 3) + y * 7) as f32 * 0.1).sin() * 12.0
    });
    let logits = logits_from_labels(labels.view(), CLASSES) + wave;
    let strategy = ConfiguredPrompts {
        config: PromptConfig::default(),
        image_size: SIDE as i64,
        mask_size: [SIDE, SIDE],
    };
    let mut group = criterion.benchmark_group("prompts");
    group.bench_function("edt", |bencher| bencher.iter(|| squared_distance_to_border(disc.view())));
    group.bench_function("from_logits", |bencher| {
        bencher.iter(|| checked(strategy.prompts(&SliceMasks::Logits(logits.view()))));
    });
    group.bench_function("from_labels", |bencher| {
        bencher.iter(|| {
            checked(strategy.prompts(&SliceMasks::Labels { labels: labels.view(), classes: CLASSES }))
        });
    });
}

/// A disc with a ring of every class.
fn rings() -> Array2<u8> {
    let centre = SIDE as f32 / 2.0;
    Array2::from_shape_fn((SIDE, SIDE), |(y, x)| {
        let ring = (x as f32 - centre).hypot(y as f32 - centre) / (centre * 0.9) * (CLASSES - 1) as f32;
        (CLASSES - 1).saturating_sub(ring as usize) as u8
    })
}
