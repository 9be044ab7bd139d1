//! Training compared with PyTorch: the optimisers, and the loss and gradients of the whole network.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use ndarray::{Array3, Array4};
use rand::SeedableRng;
use rand_distr::{Distribution, StandardNormal};
use rand_pcg::Pcg64;
use self_prompt_sam::bundle::{Backbone, NetworkConfig, Normalisation, Patch, Plane};
use self_prompt_sam::compute::Compute;
use self_prompt_sam::network::segmenter::{prompt_strategy, prompts_from_masks};
use self_prompt_sam::training::{
    EncodedGradients, ModelConfig, Optimiser, OptimiserConfig, Rule, Sample, Trainer, TrainingConfig,
    labels_of, slices_of,
};
use self_prompt_sam::weights::Tensors;
use tch::{Device, Kind, Tensor};

use crate::python;

#[test]
fn optimisers_are_those_of_torch() {
    let folder = python::run("optimiser_reference.py");
    let reference: HashMap<String, Tensor> =
        Tensor::read_safetensors(folder.join("optimiser.safetensors")).unwrap().into_iter().collect();
    let sgd = |momentum, nesterov, weight_decay| Rule::Sgd { momentum, nesterov, weight_decay };
    for (case, rule) in [
        ("sgd_nesterov", sgd(0.99, true, 3e-5)),
        ("sgd", sgd(0.9, false, 0.01)),
        ("adamw", Rule::AdamW { betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.01 }),
    ] {
        let start = |name: &str| reference[&format!("start.{name}")].copy().set_requires_grad(true);
        let parameters = BTreeMap::from(["a", "b"].map(|name| (name.to_owned(), start(name))));
        let config = OptimiserConfig { rule, clip_norm: Some(1.5), average: None };
        let mut optimiser = Optimiser::new(&config, parameters, Kind::Float);
        let rates = &reference["rates"];
        for step in 0..rates.size()[0] {
            for (name, parameter) in optimiser.parameters() {
                let gradient = reference[&format!("gradient.{name}")].get(step);
                (parameter * gradient).sum(Kind::Float).backward();
            }
            let norm = optimiser.gradient_norm();
            optimiser.step(rates.double_value(&[step]), norm);
            for (name, parameter) in optimiser.parameters() {
                let expected = reference[&format!("{case}.{name}")].get(step);
                // A few units in the last place: the order of operations differs.
                assert!(parameter.allclose(&expected, 2e-6, 2e-6, false), "{case}, step {step}, {name}");
            }
        }
    }
}

const DEPTH: usize = 3;
const SIDE: usize = 32;

/// The paper's full model on a small backbone that is trained as well, with one learned 2× upsampling in the
/// MAdapter.
fn config() -> TrainingConfig {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/hippocampus-scratch.yml");
    let shipped = TrainingConfig::open(&shipped).unwrap();
    let plane = Plane::Window([SIDE, SIDE]);
    let model = ModelConfig {
        modalities: vec!["T1".into(), "T2".into()],
        patch: Patch {
            depth: DEPTH,
            plane,
            depth_overlap: 0.5,
            plane_overlap: 0.5,
            mirror: [false; 3],
            locate: None,
        },
        normalisation: Normalisation::ZScore,
        largest_component: false.into(),
        network: NetworkConfig::full(Backbone::VitTiny, 64),
        ..shipped.model
    };
    TrainingConfig { model, ..shipped }
}

/// A blob of each class on noise; the third class is absent.
fn window() -> Sample {
    let labels = Array3::from_shape_fn((DEPTH, SIDE, SIDE), |(z, y, x)| {
        u8::from(y.abs_diff(12) + x.abs_diff(9) < 6 + z)
            + 2 * u8::from(y.abs_diff(22) + x.abs_diff(22) < 5 + z)
    });
    let noise = randn(&mut Pcg64::seed_from_u64(11), &[2, DEPTH as i64, SIDE as i64, SIDE as i64]);
    let noise =
        Array4::from_shape_vec((2, DEPTH, SIDE, SIDE), Vec::<f32>::try_from(noise.flatten(0, -1)).unwrap())
            .unwrap();
    Sample { case_id: "case".into(), images: noise + labels.mapv(f32::from), labels }
}

/// Does not use libtorch's generator, which tests running in parallel use as well. In some draws of weights, a unit
/// is so close to the kink of its activation that the reference is on its other side.
fn randn(generator: &mut Pcg64, size: &[i64]) -> Tensor {
    let count = size.iter().product::<i64>() as usize;
    let values: Vec<f32> = StandardNormal.sample_iter(generator).take(count).collect();
    Tensor::from_slice(&values).view(size)
}

/// Draws every weight anew, around one if it starts at one, else around zero, so that weights that start at zero do
/// not hide the layers before them.
fn disturb(trainer: &Trainer) {
    let mut generator = Pcg64::seed_from_u64(12);
    tch::no_grad(|| {
        for weight in trainer.parts().into_iter().flat_map(|part| part.weights().into_values()) {
            let size = weight.size();
            let inputs = weight.numel() as f64 / size[0] as f64;
            let scale = if size.len() > 1 { (3.0 * inputs).sqrt().recip() } else { 0.02 };
            let drawn = randn(&mut generator, &size) * scale + weight.mean(Kind::Float).round();
            weight.shallow_clone().copy_(&drawn);
        }
    });
}

fn weights(trainer: &Trainer) -> Tensors {
    let shards = trainer.parts().map(|part| part.shard());
    shards.into_iter().flatten().collect()
}

fn reference(trainer: &Trainer, window: &Sample) -> HashMap<String, Tensor> {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("in.safetensors"), folder.path().join("out.safetensors"));
    let mut tensors = weights(trainer);
    tensors.insert("images".into(), slices_of(&window.images).transpose(0, 1).contiguous());
    tensors.insert("labels".into(), labels_of(&window.labels));
    let named: Vec<(&String, Tensor)> =
        tensors.iter().map(|(name, tensor)| (name, tensor.detach())).collect();
    Tensor::write_safetensors(&named, &input).unwrap();
    python::run_with("training_reference.py", &[&input, &output]);
    Tensor::read_safetensors(&output).unwrap().into_iter().collect()
}

/// Returns the losses and the gradients of the parameters.
fn learn(trainer: &Trainer, window: &Sample, full: bool) -> (f64, Option<f64>, Tensors) {
    let labels = labels_of(&window.labels);
    let encoded = trainer.encoder.forward(&slices_of(&window.images)).unwrap();
    let generated = trainer.generator.learn(&encoded.taps, &labels, 1.0).unwrap();
    let decoded = full.then(|| {
        let bundle = self_prompt_sam::bundle::Bundle {
            folder: Default::default(),
            config: trainer.config().model.without_files(),
        };
        let prompts = prompts_from_masks(&prompt_strategy(&bundle), &generated.masks).unwrap();
        trainer.decoder.learn(&encoded.for_decoder(), &prompts, &labels, 1.0).unwrap()
    });
    let final_loss = decoded.as_ref().map(|decoded| decoded.loss);
    let gradients = EncodedGradients {
        taps: generated.taps_gradient,
        embedding: decoded.map_or_else(Vec::new, |decoded| decoded.embedding_gradient),
    };
    gradients.backward(encoded).unwrap();
    let parameters = trainer.parts().into_iter().flat_map(|part| part.parameters());
    let gradients = parameters.map(|(name, parameter)| (name.clone(), parameter.grad()));
    (generated.loss, final_loss, gradients.filter(|(_, gradient)| gradient.defined()).collect())
}

/// Whether a parameter is a bias that the following normalisation removes, so that its gradient is zero up to
/// rounding. Without the decoder, the bias of the embedding is one: it goes through a 1×1 convolution into a
/// normalisation.
fn before_a_norm(name: &str, full: bool) -> bool {
    let modality =
        ["first", "refine", "doublings.0"].map(|layer| format!("trained/modality_adapter.{layer}.bias"));
    let embedding = (!full).then(|| "sam/image_encoder.neck.3.bias".to_owned());
    let classes = "trained/classes_adapter.expand.bias".to_owned();
    modality.into_iter().chain([classes]).chain(embedding).any(|bias| name == bias)
}

#[test]
fn losses_and_gradients_are_those_of_a_pytorch_model() {
    let window = window();
    for (stage, full) in [("stage1", false), ("stage2", true)] {
        let trainer = Trainer::new(&config(), Compute::fp32(Device::Cpu)).unwrap();
        disturb(&trainer);
        let expected = reference(&trainer, &window);
        let (auxiliary, final_loss, gradients) = learn(&trainer, &window, full);
        let scalar = |name: &str| expected[&format!("{stage}/{name}")].double_value(&[]);
        let close = |found: f64, expected: f64| (found - expected).abs() <= 1e-4 * expected.abs();
        assert!(close(auxiliary, scalar("loss.auxiliary")), "{auxiliary} {}", scalar("loss.auxiliary"));
        if let Some(final_loss) = final_loss {
            assert!(close(final_loss, scalar("loss.final")), "{final_loss} {}", scalar("loss.final"));
        }
        let prefix = format!("{stage}/");
        let names: Vec<&str> = expected
            .keys()
            .filter_map(|name| name.strip_prefix(&prefix))
            .filter(|name| !name.starts_with("loss.") && !name.ends_with("gaussian_matrix"))
            .collect();
        assert!(names.len() > 200, "{}", names.len());
        let largest = |tensor: &Tensor| tensor.abs().max().double_value(&[]);
        let overall =
            names.iter().map(|name| largest(&expected[&format!("{prefix}{name}")])).fold(0.0, f64::max);
        let mut errors: Vec<(f64, &str)> = Vec::new();
        for name in names {
            let expected = &expected[&format!("{prefix}{name}")];
            let found = gradients.get(name).unwrap_or_else(|| panic!("{stage}: {name} has no gradient"));
            if before_a_norm(name, full) {
                assert!(largest(expected).max(largest(found)) < 1e-6 * overall, "{stage}: {name}");
                continue;
            }
            // Gradients that almost cancel out are compared relative to the overall size.
            errors.push((largest(&(found - expected)) / largest(expected).max(1e-4 * overall), name));
        }
        errors.sort_by(|a, b| b.0.total_cmp(&a.0));
        println!("{stage}: losses {auxiliary:.6} {final_loss:?}, worst relative errors {:?}", &errors[..5]);
        assert!(errors[0].0 <= 1e-4, "{stage}: {:?}", errors[0]);
        let unexpected: Vec<&String> = gradients
            .iter()
            .filter(|(name, gradient)| {
                !expected.contains_key(&format!("{prefix}{name}")) && largest(gradient) > 0.0
            })
            .map(|(name, _)| name)
            .collect();
        assert!(unexpected.is_empty(), "{unexpected:?}");
    }
}
