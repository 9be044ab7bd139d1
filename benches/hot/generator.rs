//! MSPGenerator on the taps of LiteMedSAM.

use std::cell::LazyCell;

use criterion::{Criterion, Throughput};
use self_prompt_sam::bundle::{AdapterKind, Backbone, BundleConfig};
use self_prompt_sam::network::adapter::AdapterConfig;
use self_prompt_sam::network::sam::TinyVitConfig;
use self_prompt_sam::network::segmenter::AuxiliaryGenerator;
use tch::Tensor;
use tch::nn::VarStore;

use crate::support::plain;
use crate::{CLASSES, DEPTH, checked, heavy, name_of, precisions, prompted};

/// `generator/lite_medsam-<size>/<precision>`, a window of slices.
pub fn bench(criterion: &mut Criterion) {
    let mut group = heavy(criterion, "generator");
    group.throughput(Throughput::Elements(DEPTH as u64));
    for size in [256, 128] {
        for compute in precisions() {
            let made = LazyCell::new(|| {
                let mut trained = VarStore::new(compute.device);
                let config = plain(Backbone::LiteMedsam, size, DEPTH, CLASSES);
                let config = BundleConfig { network: prompted(config.network), ..config };
                let generator = AuxiliaryGenerator::new(&config, &trained);
                trained.freeze();
                compute.convert(&trained);
                let encoder =
                    TinyVitConfig::lite_medsam(size, AdapterConfig::new(AdapterKind::None, DEPTH as i64));
                let taps: Vec<Tensor> = encoder
                    .tap_shapes()
                    .iter()
                    .map(|tap| {
                        let shape = [DEPTH as i64, tap.channels, tap.height, tap.width];
                        Tensor::randn(shape, (compute.kind, compute.device))
                    })
                    .collect();
                (generator, taps)
            });
            group.bench_function(name_of(Backbone::LiteMedsam, size, compute), |bencher| {
                let (generator, taps) = &*made;
                bencher.iter(|| {
                    tch::no_grad(|| generator.as_ref().map(|generator| checked(generator.forward(taps))))
                });
            });
        }
    }
}
