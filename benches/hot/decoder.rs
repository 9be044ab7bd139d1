//! Prompt encoder and mask decoder: box prompts of every class in every slice of a window.

use std::cell::LazyCell;

use criterion::{Criterion, Throughput};
use self_prompt_sam::bundle::{Backbone, BundleConfig};
use self_prompt_sam::network::segmenter::Decoder;
use self_prompt_sam::prompt::SlicePrompts;
use tch::Tensor;
use tch::nn::VarStore;

use crate::support::plain;
use crate::{CLASSES, DEPTH, checked, heavy, name_of, precisions, prompted};

const EMBEDDING: i64 = 256;
/// Backbone, image size, side of the embedding.
const NETWORKS: [(Backbone, i64, i64); 3] =
    [(Backbone::LiteMedsam, 128, 32), (Backbone::LiteMedsam, 256, 64), (Backbone::VitB, 1024, 64)];

/// `decoder/<backbone>-<size>/<precision>`: a window of slices with all classes.
pub fn bench(criterion: &mut Criterion) {
    let mut group = heavy(criterion, "decoder");
    group.throughput(Throughput::Elements((DEPTH * CLASSES) as u64));
    for (backbone, size, grid) in NETWORKS {
        let last = size as f32 / 2.0;
        let slice = SlicePrompts {
            labels: vec![1.0; CLASSES],
            points: None,
            more_points: None,
            boxes: Some(vec![[last / 2.0, last / 2.0, last, last]; CLASSES]),
            masks: None,
        };
        let prompts = vec![slice; DEPTH];
        for compute in precisions() {
            let made = LazyCell::new(|| {
                let (mut sam, trained) = (VarStore::new(compute.device), VarStore::new(compute.device));
                let config = plain(backbone, size, DEPTH, CLASSES);
                let config = BundleConfig { network: prompted(config.network), ..config };
                let decoder = Decoder::new(&config, &sam, &trained);
                sam.freeze();
                compute.convert(&sam);
                (
                    decoder,
                    Tensor::randn([DEPTH as i64, EMBEDDING, grid, grid], (compute.kind, compute.device)),
                )
            });
            group.bench_function(name_of(backbone, size, compute), |bencher| {
                let (decoder, embedding) = &*made;
                bencher.iter(|| {
                    checked(tch::no_grad(|| decoder.forward(std::slice::from_ref(embedding), &prompts)))
                });
            });
        }
    }
}
