//! What can be switched on for the mask decoder: finer features, which have no effect at the start and whose gradients reach
//! the encoder; mask prompts for the MC-Adapter; a loss of the decoder's own masks.

use std::collections::BTreeMap;
use std::path::Path;

use ndarray::Array3;
use self_prompt_sam::bundle::{Backbone, Bundle, BundleConfig, NetworkConfig, PromptConfig};
use self_prompt_sam::compute::Compute;
use self_prompt_sam::network::segmenter::{
    Decoder, Encoder, Segmenter, prompt_strategy, prompts_from_masks, write_fresh_weights,
};
use self_prompt_sam::prompt::{PromptStrategy, SliceMasks, SlicePrompts};
use self_prompt_sam::training::augment::AugmentationConfig;
use self_prompt_sam::training::{
    EncodedGradients, Sample, Stage, Trainer, TrainingConfig, labels_of, slices_of,
};
use self_prompt_sam::weights::sha256_file;
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

use crate::training::{config, fp32, sampler, with_fixed_weights};

const FINER: &str = "mask_decoder.finer_features.";

fn read(path: &Path) -> BTreeMap<String, Tensor> {
    Tensor::read_safetensors(path).unwrap().into_iter().collect()
}

/// Two bundles in `folder` with the same weights, without and with finer features.
fn bundles(folder: &Path, backbone: Backbone) -> [Bundle; 2] {
    let mut config: BundleConfig = crate::segmenter::config(NetworkConfig::full(backbone, 64), 1);
    let file = |name: &str| folder.join(name);
    let [sam, without, with] = ["backbone.safetensors", "without.safetensors", "with.safetensors"].map(file);
    write_fresh_weights(&config, 3, &without, Some(&sam)).unwrap();
    let plain = config.clone();
    config.network.finer_features = true;
    write_fresh_weights(&config, 3, &with, None).unwrap();
    let mut tensors: BTreeMap<String, Tensor> =
        read(&with).into_iter().filter(|(name, _)| name.starts_with(FINER)).collect();
    assert!(!tensors.is_empty());
    tensors.extend(read(&without));
    Tensor::write_safetensors(&tensors.into_iter().collect::<Vec<_>>(), &with).unwrap();
    [(plain, without), (config, with)].map(|(mut config, adapters)| {
        config.weights.file.clone_from(&sam);
        config.weights.sha256 = sha256_file(&sam).unwrap();
        let file = config.adapters.as_mut().unwrap();
        (file.sha256, file.file) = (sha256_file(&adapters).unwrap(), adapters);
        Bundle { folder: folder.to_path_buf(), config }
    })
}

/// Two squares in all slices.
fn labels() -> Array3<u8> {
    Array3::from_shape_fn((4, 64, 64), |(_, y, x)| match (y / 16, x / 16) {
        (1, 1) => 1,
        (2, 2) => 2,
        _ => 0,
    })
}

fn segment(bundle: &Bundle) -> Tensor {
    let segmenter = Segmenter::load(bundle, Compute::fp32(Device::Cpu)).unwrap();
    let window = Tensor::linspace(-1.0, 1.0, 4 * 64 * 64, (Kind::Float, Device::Cpu)).sin();
    segmenter.segment(&window.view([4, 1, 64, 64]), None, Some((labels().view(), 3))).unwrap()
}

#[test]
fn they_start_without_effect_and_a_bundle_keeps_what_they_learn() {
    for backbone in [Backbone::VitTiny, Backbone::LiteMedsam] {
        let folder = tempfile::tempdir().unwrap();
        let [without, mut with] = bundles(folder.path(), backbone);
        let (expected, found) = (segment(&without), segment(&with));
        assert!(found.equal(&expected), "{backbone:?}");
        for size in ["doubled", "quadrupled"] {
            let file = with.config.adapters.as_mut().unwrap();
            let mut tensors = read(&file.file);
            let last = tensors.get_mut(&format!("{FINER}{size}.last.weight")).unwrap();
            // Not the same in all channels, which the normalisation would take away again.
            let values = Tensor::linspace(-0.1, 0.1, last.numel() as i64, (Kind::Float, Device::Cpu));
            last.copy_(&values.view_as(last));
            Tensor::write_safetensors(&tensors.into_iter().collect::<Vec<_>>(), &file.file).unwrap();
            file.sha256 = sha256_file(&file.file).unwrap();
            let learned = segment(&with);
            assert!((&learned - &found).abs().max().double_value(&[]) > 1e-6, "{backbone:?}, {size}");
        }
    }
}

#[test]
fn a_decoder_that_needs_them_says_so() {
    let mut config = crate::segmenter::config(NetworkConfig::full(Backbone::LiteMedsam, 64), 1);
    config.network.prompts = PromptConfig { mask: false, ..PromptConfig::default() };
    config.network.finer_features = true;
    let (sam, trained) = (VarStore::new(Device::Cpu), VarStore::new(Device::Cpu));
    let decoder = Decoder::new(&config, &sam, &trained);
    let strategy = prompt_strategy(&Bundle { folder: Default::default(), config: config.clone() });
    let prompts: Vec<SlicePrompts> = labels()
        .outer_iter()
        .map(|labels| strategy.prompts(&SliceMasks::Labels { labels, classes: 3 }).unwrap())
        .collect();
    let encoder = Encoder::new(&config, &sam, &trained);
    let window = Tensor::zeros([4, 1, 64, 64], (Kind::Float, Device::Cpu));
    let encoded = tch::no_grad(|| encoder.forward(&window, None)).unwrap();
    let levels = encoded.for_decoder();
    let sizes: Vec<Vec<i64>> = levels.iter().map(Tensor::size).collect();
    assert_eq!(sizes, [[4, 256, 16, 16], [4, 64, 64, 64], [4, 128, 32, 32]]);
    assert!(tch::no_grad(|| decoder.forward(&levels, &prompts)).is_ok());
    let error = decoder.forward(&levels[..1], &prompts).unwrap_err().to_string();
    assert!(error.contains("embedding") && error.contains("[4, 64, 64, 64]"), "{error}");
}

/// A configuration with weights in `folder` that are always the same, except those of the finer features.
fn fixed(folder: &Path) -> TrainingConfig {
    let mut config = with_fixed_weights(config(folder, 4), folder);
    config.schedule.generator_only_epochs = 0;
    config
}

fn window(config: &TrainingConfig) -> Sample {
    sampler(config, AugmentationConfig::none(), 0).sample(0).unwrap()
}

/// The bundle in `start_from` has neither finer features nor an MC-Adapter that gets mask prompts.
#[test]
fn a_training_with_them_starts_where_one_without_them_ended() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = fixed(folder.path());
    let window = window(&config);
    let output = |config: &TrainingConfig| {
        let trainer = Trainer::new(config, fp32()).unwrap();
        trainer.segment(&window.images, Stage::Full).unwrap().output.unwrap()
    };
    let without = output(&config);
    config.model.network.finer_features = true;
    config.model.network.classes_adapter_prompts = true;
    assert!(output(&config).equal(&without));
    let mut trainer = Trainer::new(&config, fp32()).unwrap();
    for _ in 0..2 {
        trainer.step(std::slice::from_ref(&window)).unwrap();
    }
    let weights = trainer.decoder.part.weights();
    let finer = ["doubled", "quadrupled"].map(|size| format!("{FINER}{size}.last.weight"));
    for name in finer.into_iter().chain(["classes_adapter.expand_prompts.weight".into()]) {
        assert!(
            weights[&format!("trained/{name}")].abs().max().double_value(&[]) > 0.0,
            "{name} learned nothing"
        );
    }
}

/// The gradients of the encoder's parameters, which are then cleared.
fn take_gradients(trainer: &Trainer) -> BTreeMap<String, Tensor> {
    let parameters = trainer.encoder.part.parameters().iter();
    let gradients = parameters.map(|(name, parameter)| (name.clone(), parameter.grad()));
    let taken = |(name, mut gradient): (String, Tensor)| {
        let copy = gradient.copy();
        let _ = gradient.zero_();
        (name, copy)
    };
    gradients.filter(|(_, gradient)| gradient.defined()).map(taken).collect()
}

#[test]
fn their_gradients_through_the_cut_are_those_of_the_whole_graph() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = fixed(folder.path());
    let window = window(&config);
    config.model.network.finer_features = true;
    let trainer = Trainer::new(&config, fp32()).unwrap();
    for (name, parameter) in trainer.decoder.part.parameters() {
        if name.ends_with("last.weight") && name.contains(FINER) {
            tch::no_grad(|| drop(parameter.shallow_clone().fill_(0.5)));
        }
    }
    let (slices, labels) = (slices_of(&window.images), labels_of(&window.labels));
    let encode = || trainer.encoder.forward(&slices).unwrap();
    let masks = tch::no_grad(|| trainer.generator.forward(&encode().taps)).unwrap();
    let bundle = Bundle { folder: Default::default(), config: config.model.without_files() };
    let prompts = prompts_from_masks(&prompt_strategy(&bundle), &masks).unwrap();

    let logits = trainer.decoder.forward(&encode().for_decoder(), &prompts).unwrap();
    let loss = config.loss.of_logits(&logits.transpose(0, 1).unsqueeze(0), &labels.unsqueeze(0));
    loss.backward();
    let whole = take_gradients(&trainer);

    let through = |finer: f64| {
        let encoded = encode();
        let decoded = trainer.decoder.learn(&encoded.for_decoder(), &prompts, &labels, 1.0).unwrap();
        let taps = encoded.taps.iter().map(Tensor::zeros_like).collect();
        let mut embedding = decoded.embedding_gradient;
        assert_eq!(embedding.len(), 2);
        embedding[1] = &embedding[1] * finer;
        EncodedGradients { taps, embedding }.backward(encoded).unwrap();
        take_gradients(&trainer)
    };
    let difference = |found: &BTreeMap<String, Tensor>| {
        let of = |(name, gradient): (&String, &Tensor)| {
            let largest = gradient.abs().max().double_value(&[]).max(1e-6);
            (gradient - &found[name]).abs().max().double_value(&[]) / largest
        };
        whole.iter().map(of).fold(0.0, f64::max)
    };
    assert!(whole.len() > 10);
    let (with, lost) = (difference(&through(1.0)), difference(&through(0.0)));
    println!("relative difference of gradients: {with:.1e}; without those of the finer features {lost:.1e}");
    // The other weights of the finer features are random, and so is how much is lost.
    assert!(with < 1e-4 && lost > 1e-3, "{with} {lost}");
}

/// The MC-Adapter comes after the masks, so their loss alone leaves it as it is.
#[test]
fn the_loss_of_the_decoders_own_masks_trains_the_decoder_but_not_the_mc_adapter() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = fixed(folder.path());
    let window = window(&config);
    let norms = |config: &TrainingConfig| {
        let trainer = Trainer::new(config, fp32()).unwrap();
        let (slices, labels) = (slices_of(&window.images), labels_of(&window.labels));
        let encoded = trainer.encoder.forward(&slices).unwrap();
        let masks = tch::no_grad(|| trainer.generator.forward(&encoded.taps)).unwrap();
        let bundle = Bundle { folder: Default::default(), config: config.model.without_files() };
        let prompts = prompts_from_masks(&prompt_strategy(&bundle), &masks).unwrap();
        trainer.decoder.learn(&encoded.for_decoder(), &prompts, &labels, 1.0).unwrap();
        let of = |part: &str| {
            let parameters = trainer.decoder.part.parameters().iter();
            let gradients = parameters.filter(|(name, _)| name.contains(part)).map(|(_, it)| it.grad());
            let norm = |gradient: Tensor| gradient.norm().double_value(&[]);
            gradients.filter(Tensor::defined).map(norm).fold(0.0, f64::max)
        };
        [of("mask_decoder"), of("classes_adapter")]
    };
    let [decoder, adapter] = norms(&config);
    assert!(decoder > 0.0 && adapter > 0.0);
    config.loss.decoder_masks = 0.5;
    assert_ne!(norms(&config)[0], decoder);
    config.loss.final_output = 0.0;
    let [decoder, adapter] = norms(&config);
    assert!(decoder > 0.0 && adapter == 0.0, "{decoder} {adapter}");
}
