//! Generators: shapes, gradients, and which slices they mix.

use self_prompt_sam::bundle::GeneratorKind;
use self_prompt_sam::network::TapShape;
use self_prompt_sam::network::generator::{Generator, MspGeneratorConfig, Widths};
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

use crate::devices::devices;
use crate::python::relative_difference;

const DEPTH: i64 = 3;
const VOLUMES: i64 = 2;

fn square(channels: i64, size: i64) -> TapShape {
    TapShape { channels, height: size, width: size }
}

/// Taps like those of LiteMedSAM, a plain ViT and an encoder without taps, at an eighth of their sizes.
fn encoders() -> [Vec<TapShape>; 3] {
    [
        vec![square(6, 32), square(8, 16), square(10, 8), square(12, 8), square(16, 8)],
        vec![square(24, 8), square(24, 8), square(24, 8), square(24, 8), square(16, 8)],
        vec![square(16, 8)],
    ]
}

fn config(taps: Vec<TapShape>, patch: [i64; 2]) -> MspGeneratorConfig {
    let widths = Widths { finest: 4, widest: 16 };
    MspGeneratorConfig { taps, classes: 5, patch, depth: DEPTH, widths }
}

fn random_taps(config: &MspGeneratorConfig, device: Device) -> Vec<Tensor> {
    let shape = |tap: &TapShape| [VOLUMES * DEPTH, tap.channels, tap.height, tap.width];
    config.taps.iter().map(|tap| Tensor::randn(shape(tap), (Kind::Float, device))).collect()
}

fn generator(kind: GeneratorKind, config: &MspGeneratorConfig, device: Device) -> (VarStore, Generator) {
    let store = VarStore::new(device);
    let generator = Generator::new(&store.root(), kind, config).unwrap();
    (store, generator)
}

#[test]
fn masks_have_the_patchs_size_at_every_ratio() {
    for device in devices() {
        for taps in encoders() {
            for patch in [[32, 32], [8, 8], [16, 16], [40, 24], [5, 7]] {
                for kind in [GeneratorKind::MultiScale, GeneratorKind::Stacked] {
                    let config = config(taps.clone(), patch);
                    let (_store, generator) = generator(kind, &config, device);
                    let masks = generator.forward(&random_taps(&config, device));
                    assert_eq!(masks.logits.device(), device);
                    assert_eq!(masks.logits.size(), [VOLUMES, 5, DEPTH, patch[0], patch[1]]);
                    let sizes: Vec<i64> = masks.deep.iter().map(|deep| deep.size()[4]).collect();
                    assert!(sizes.is_sorted_by(|a, b| a >= b), "finest first: {sizes:?}");
                    assert!(masks.deep.iter().all(|deep| deep.size()[..3] == [VOLUMES, 5, DEPTH]));
                }
            }
        }
    }
}

#[test]
fn every_parameter_and_every_tap_gets_a_gradient() {
    for taps in encoders() {
        for patch in [[32, 32], [20, 24]] {
            let config = config(taps.clone(), patch);
            let (store, generator) = generator(GeneratorKind::MultiScale, &config, Device::Cpu);
            let taps: Vec<Tensor> =
                random_taps(&config, Device::Cpu).iter().map(|tap| tap.set_requires_grad(true)).collect();
            let masks = generator.forward(&taps);
            let loss = masks.deep.iter().fold(masks.logits.square().sum(Kind::Float), |sum, deep| {
                sum + deep.square().sum(Kind::Float)
            });
            loss.backward();
            let flows = |x: &Tensor| x.grad().defined() && x.grad().abs().max().double_value(&[]) > 1e-6;
            for (name, variable) in store.variables() {
                assert!(flows(&variable), "{name} {:?}", config.taps);
            }
            assert!(taps.iter().all(flows));
        }
    }
}

#[test]
fn volumes_are_independent_of_their_order_and_of_each_other() {
    for kind in [GeneratorKind::MultiScale, GeneratorKind::Stacked] {
        let config = config(encoders()[0].clone(), [32, 32]);
        let (_store, generator) = generator(kind, &config, Device::Cpu);
        let taps = random_taps(&config, Device::Cpu);
        let swap = |tap: &Tensor| Tensor::cat(&[tap.narrow(0, DEPTH, DEPTH), tap.narrow(0, 0, DEPTH)], 0);
        let swapped: Vec<Tensor> = taps.iter().map(swap).collect();
        let first: Vec<Tensor> = taps.iter().map(|tap| tap.narrow(0, 0, DEPTH)).collect();
        let masks = generator.forward(&taps).logits;
        // With another batch size the order of sums may differ.
        let equal = |a: &Tensor, b: &Tensor| relative_difference(a, b) < 1e-5;
        assert!(equal(&generator.forward(&swapped).logits.flip([0]), &masks));
        assert!(equal(&generator.forward(&first).logits, &masks.narrow(0, 0, 1)));
    }
}

#[test]
fn a_slice_reaches_its_neighbours() {
    let config = config(encoders()[0].clone(), [32, 32]);
    let (_store, generator) = generator(GeneratorKind::MultiScale, &config, Device::Cpu);
    let taps = random_taps(&config, Device::Cpu);
    let changed: Vec<Tensor> = taps.iter().map(|tap| tap.copy()).collect();
    let _ = changed[4].get(0).get(0).get(4).fill_(3.0);
    let difference = (generator.forward(&changed).logits - generator.forward(&taps).logits).abs();
    let in_slice = |volume, slice| difference.get(volume).select(1, slice).max().double_value(&[]);
    assert!(in_slice(0, 1) > 1e-4, "the neighbour sees it");
    assert!(in_slice(1, 0) < 1e-6, "another volume does not");
}

#[test]
fn no_generator_is_made_where_prompts_come_from_outside() {
    let config = config(encoders()[0].clone(), [32, 32]);
    let store = VarStore::new(Device::Cpu);
    assert!(Generator::new(&store.root(), GeneratorKind::None, &config).is_none());
    assert!(store.is_empty());
}
