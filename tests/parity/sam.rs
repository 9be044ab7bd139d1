//! `self_prompt_sam::network::sam` compared with PyPI `segment-anything` 1.0, with random weights.

use self_prompt_sam::network::sam::{
    ImageEncoderVit, MaskDecoder, MaskDecoderConfig, PromptEncoder, PromptEncoderConfig, PromptTensors,
    TwoWayTransformer, TwoWayTransformerConfig, VitConfig,
};
use tch::nn::VarStore;

use crate::devices::devices;
use crate::reference::Reference;
use crate::skip::skipped;

const SCRIPT: &str = "sam_reference.py";

/// A store for frozen weights and one for the paper's modules, which must stay empty in plain SAM.
fn build<M>(
    reference: &Reference,
    device: tch::Device,
    new: impl Fn(&tch::nn::Path, &tch::nn::Path) -> M,
) -> M {
    let (mut store, adapters) = (VarStore::new(device), VarStore::new(device));
    let module = new(&store.root(), &adapters.root());
    assert!(adapters.is_empty());
    store.freeze();
    reference.load(&store);
    module
}

fn check_encoder(case: &str, config: &VitConfig) {
    let reference = Reference::run(SCRIPT, case);
    for device in devices() {
        let encoder = build(&reference, device, |vs, adapters| ImageEncoderVit::new(vs, adapters, config));
        let encoded = tch::no_grad(|| encoder.forward(&reference.input("image", device)));
        assert_eq!(encoded.taps.len(), config.taps.len() + 1);
        for (index, tap) in encoded.taps[..config.taps.len()].iter().enumerate() {
            reference.check(&format!("tap{index}"), tap, device);
        }
        reference.check("embedding", &encoded.embedding, device);
        assert!(encoded.taps[config.taps.len()].equal(&encoded.embedding));
    }
}

#[test]
fn windowed_and_global_blocks_on_an_odd_grid_equal_the_reference() {
    let config = VitConfig {
        patch_size: 3,
        embed_dim: 24,
        blocks: 4,
        heads: 3,
        out_channels: 20,
        window_size: 5,
        global_blocks: vec![1],
        table_grid: 13,
        taps: vec![0, 1, 2, 3],
        ..VitConfig::vit_b(39)
    };
    check_encoder("small_vit", &config);
}

#[test]
fn vit_b_at_256_equals_the_reference() {
    check_encoder("vit_b_256", &VitConfig { taps: vec![0, 3, 6, 9], ..VitConfig::vit_b(256) });
}

#[test]
fn vit_b_at_512_and_1024_equals_the_reference() {
    if std::env::var_os("SPSAM_FULL").is_none() {
        skipped("takes long: `cargo xtask test --full`");
        return;
    }
    check_encoder("vit_b_512", &VitConfig { taps: vec![0, 3, 6, 9], ..VitConfig::vit_b(512) });
    check_encoder("vit_b_1024", &VitConfig { taps: vec![0, 3, 6, 9], ..VitConfig::vit_b(1024) });
}

#[test]
fn every_combination_of_prompts_equals_the_reference() {
    for (case, image_size, grid) in
        [("prompt_encoder_1024", 1024, 64), ("prompt_encoder_512", 512, 32), ("prompt_encoder_256", 256, 64)]
    {
        let reference = Reference::run(SCRIPT, case);
        let config = PromptEncoderConfig::sam(image_size, grid);
        for device in devices() {
            let encoder = build(&reference, device, |vs, _| PromptEncoder::new(vs, &config));
            let input = |name| reference.input(name, device);
            reference.check("dense_pe", &encoder.dense_pe(), device);
            for combination in 0..8 {
                let given = |bit| combination & bit != 0;
                let prompts = PromptTensors {
                    points: given(1).then(|| (input("points"), input("labels"))),
                    boxes: given(2).then(|| input("boxes")),
                    box_valid: None,
                    masks: given(4).then(|| input("masks")),
                };
                let (sparse, dense) = tch::no_grad(|| encoder.forward(&prompts, 4));
                reference.check(&format!("sparse{combination}"), &sparse, device);
                reference.check(&format!("dense{combination}"), &dense, device);
            }
        }
    }
}

#[test]
fn two_way_transformer_equals_the_reference() {
    let reference = Reference::run(SCRIPT, "transformer");
    let config = TwoWayTransformerConfig {
        layers: 3,
        embedding_dim: 48,
        heads: 4,
        mlp_dim: 80,
        ..TwoWayTransformerConfig::sam()
    };
    for device in devices() {
        let transformer =
            build(&reference, device, |vs, adapters| TwoWayTransformer::new(vs, adapters, &config));
        let input = |name| reference.input(name, device);
        // Without adapters, the split of the prompts into slices and classes makes no difference.
        for classes in [1, 3] {
            let (tokens, image) = tch::no_grad(|| {
                transformer.forward(&input("image"), &input("image_pe"), &input("tokens"), classes)
            });
            reference.check("tokens", &tokens, device);
            reference.check("image", &image, device);
        }
    }
}

#[test]
fn mask_decoder_equals_the_reference() {
    let reference = Reference::run(SCRIPT, "mask_decoder");
    let config = MaskDecoderConfig::sam(10);
    for device in devices() {
        let decoder = build(&reference, device, |vs, adapters| MaskDecoder::new(vs, adapters, &config));
        let input = |name: &str| reference.input(name, device);
        for (tokens, multimask) in [(0, false), (0, true), (3, false), (3, true)] {
            let prompts = (&input(&format!("sparse{tokens}")), &input("dense"));
            let (masks, iou) = tch::no_grad(|| {
                decoder.forward(&input("embedding"), &input("image_pe"), prompts, 4, multimask)
            });
            let name = format!("{tokens}{}", if multimask { "_multimask" } else { "" });
            reference.check(&format!("masks{name}"), &masks, device);
            reference.check(&format!("iou{name}"), &iou, device);
        }
    }
}
