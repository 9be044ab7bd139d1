//! Trainings that start from a bundle with other classes, modalities or sizes: what has the same name is taken over.

use self_prompt_sam::network::segmenter::Start;
use self_prompt_sam::training::{Trainer, TrainingConfig};
use self_prompt_sam::weights::{Fit, Tensors};
use tch::{Kind, Tensor};

use crate::training::{config, fp32, with_fixed_weights};

fn weights(config: &TrainingConfig) -> Tensors {
    let trainer = Trainer::new(config, fp32()).unwrap();
    trainer.parts().iter().flat_map(|part| part.weights()).collect()
}

/// The part of `tensor` that belongs to the name number `index` along `axis`.
fn of(tensor: &Tensor, axis: i64, index: i64) -> Tensor {
    tensor.narrow(axis, index, 1)
}

#[test]
fn weights_of_classes_and_modalities_follow_their_names() {
    let folder = tempfile::tempdir().unwrap();
    let config = with_fixed_weights(config(folder.path(), 4), folder.path());
    let [background, first, second] = <[String; 3]>::try_from(config.model.classes.clone()).unwrap();
    let before = weights(&config);
    let mut other = config.clone();
    other.model.classes = vec![background, second.clone(), "new".into(), first.clone()];
    other.model.modalities = vec!["new".into(), config.model.modalities[0].clone()];
    let after = weights(&other);
    assert_eq!(after.len(), before.len());

    let (mut by_class, mut by_modality, mut unchanged) = (0, 0, 0);
    for (name, after) in &after {
        let before = &before[name];
        if after.size() == before.size() {
            assert!(after.equal(before), "{name}");
            unchanged += 1;
        } else if name.contains("modality_adapter") {
            assert!(of(after, 1, 1).equal(&of(before, 1, 0)), "{name}");
            assert_eq!(of(after, 1, 0).abs().max().double_value(&[]), 0.0, "a new modality has no effect");
            by_modality += 1;
        } else {
            let axis = i64::from(name.ends_with("expand.weight"));
            for (new, old) in [(0, 0), (1, 2), (3, 1)] {
                assert!(of(after, axis, new).equal(&of(before, axis, old)), "{name}");
            }
            by_class += 1;
        }
    }
    assert!(by_class > 4 && by_modality == 1 && unchanged > 100, "{by_class} {by_modality} {unchanged}");

    let [old, new] = [&config, &other].map(|config| config.model.without_files());
    assert_eq!(
        Start { old: &old, new: &new }.lines(),
        ["classes new start anew, 2 of the bundle kept", "modalities new start anew, 1 of the bundle kept"]
    );
    let back = Start { old: &new, new: &old }.lines();
    assert_eq!(back[0], "classes new are not taken over, 2 of the bundle kept");
    assert_eq!(Start { old: &old, new: &old }.lines(), [""; 0]);
}

#[test]
fn positions_of_slices_are_resized_and_other_shapes_refused() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), 4).model.without_files();
    let start = Start { old: &config, new: &config };
    let key = "mask_decoder.depth_pos_embed";
    // A plane stays a plane away from the border.
    let ramp = (Tensor::arange(8, (tch::Kind::Float, tch::Device::Cpu)) + 0.5) / 8.0;
    let value = ramp.view([1, 1, 1, 8]).expand([2, 3, 8, 8], false).contiguous();
    let own = Tensor::zeros([2, 3, 12, 12], (Kind::Float, tch::Device::Cpu));
    assert!(start.fits(key, &value.size(), &own.size()));
    let fitted = start.fitted(key, value, &own);
    assert_eq!(fitted.size(), own.size());
    for x in 1..11 {
        let found = fitted.double_value(&[1, 2, 5, x]);
        assert!((found - (x as f64 + 0.5) / 12.0).abs() < 1e-6, "{found} at {x}");
    }
    assert!(!start.fits(key, &[2, 3, 8, 8], &[4, 3, 8, 8]), "another number of slices");
    assert!(!start.fits("mask_decoder.transformer.x", &[2, 3], &[2, 4]));
    assert!(!start.fits("classes_adapter.shrink.weight", &[3, 64], &[4, 32]));
}
