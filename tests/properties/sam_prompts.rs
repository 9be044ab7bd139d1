//! The coordinates of absent prompts have no effect.

use self_prompt_sam::network::sam::{PromptEncoder, PromptEncoderConfig, PromptTensors};
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

#[test]
fn absent_boxes_and_points_are_not_a_point() {
    let store = VarStore::new(Device::Cpu);
    let encoder = PromptEncoder::new(&store.root(), &PromptEncoderConfig::sam(256, 16));
    let not_a_point = &store.variables()["not_a_point_embed.weight"];
    let random = |shape: &[i64]| Tensor::rand(shape, (Kind::Float, Device::Cpu)) * 256.0;
    let boxes = random(&[3, 4]);
    let given = PromptTensors { boxes: Some(boxes.shallow_clone()), ..PromptTensors::default() };
    let (all, _) = encoder.forward(&given, 3);
    let prompts = PromptTensors {
        points: Some((random(&[3, 1, 2]), Tensor::from_slice(&[1.0_f32, -1.0, 1.0]).view([3, 1]))),
        boxes: Some(boxes),
        box_valid: Some(Tensor::from_slice(&[true, false, true])),
        masks: None,
    };
    let (sparse, dense) = encoder.forward(&prompts, 3);
    assert_eq!(sparse.size(), [3, 3, 256]);
    assert_eq!(dense.size(), [3, 256, 16, 16]);
    assert!(sparse.get(1).equal(&not_a_point.expand([3, 256], false)));
    for present in [0, 2] {
        assert!(sparse.get(present).narrow(0, 1, 2).equal(&all.get(present)));
        assert!(!sparse.get(present).get(0).equal(&not_a_point.get(0)));
    }
}
