//! Image encoder: one slice through the official sizes, a window of slices through the small ones.

use std::cell::LazyCell;

use criterion::{Criterion, Throughput};
use self_prompt_sam::bundle::Backbone;
use self_prompt_sam::network::segmenter::Encoder;
use tch::nn::VarStore;
use tch::{Kind, Tensor};

use crate::support::plain;
use crate::{CLASSES, DEPTH, checked, heavy, name_of, precisions};

const NETWORKS: [(Backbone, i64, usize); 6] = [
    (Backbone::VitB, 1024, 1),
    (Backbone::VitB, 512, 1),
    (Backbone::VitB, 256, 1),
    (Backbone::VitTiny, 64, DEPTH),
    (Backbone::LiteMedsam, 256, DEPTH),
    (Backbone::LiteMedsam, 128, DEPTH),
];

/// `encoder/<backbone>-<size>/<precision>`.
pub fn bench(criterion: &mut Criterion) {
    let mut group = heavy(criterion, "encoder");
    for (backbone, size, slices) in NETWORKS {
        group.throughput(Throughput::Elements(slices as u64));
        for compute in precisions() {
            let made = LazyCell::new(|| {
                let (mut sam, trained) = (VarStore::new(compute.device), VarStore::new(compute.device));
                let encoder = Encoder::new(&plain(backbone, size, slices, CLASSES), &sam, &trained);
                sam.freeze();
                compute.convert(&sam);
                (encoder, Tensor::randn([slices as i64, 3, size, size], (Kind::Float, compute.device)))
            });
            group.bench_function(name_of(backbone, size, compute), |bencher| {
                let (encoder, image) = &*made;
                bencher.iter(|| checked(tch::no_grad(|| encoder.forward(image, None))));
            });
        }
    }
}
