//! Adapters have no effect when newly initialised, and mix only the slices of one volume at one position.

use self_prompt_sam::bundle::AdapterKind;
use self_prompt_sam::network::adapter::{
    AdapterConfig, ClassesAdapter, ModalityAdapter, ModalityAdapterConfig, resize_logits, resize_to_rgb,
};
use self_prompt_sam::network::sam::{
    ImageEncoderVit, MaskDecoder, MaskDecoderConfig, TwoWayTransformerConfig, VitConfig,
};
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

use crate::devices::devices;

const KINDS: [AdapterKind; 4] =
    [AdapterKind::Vanilla, AdapterKind::DepthBefore, AdapterKind::DepthAfter, AdapterKind::DepthFused];

fn randn(shape: &[i64], device: Device) -> Tensor {
    Tensor::randn(shape, (Kind::Float, device))
}

/// Fills every variable with small random values.
fn randomise(store: &VarStore) {
    tch::no_grad(|| {
        for mut variable in store.variables().into_values() {
            let noise = variable.randn_like() * 0.3;
            variable.copy_(&noise);
        }
    });
}

fn largest(x: &Tensor) -> f64 {
    x.abs().max().double_value(&[])
}

/// Fails unless `changed` differs from `before` in the slices of volume 0 at grid position (`y`, `x`), and
/// nowhere else. Both `[2·D, C, h, w]`.
fn assert_only_one_column_changed(before: &Tensor, changed: &Tensor, depth: i64, [y, x]: [i64; 2]) {
    let change = (before - changed).abs().amax([1], false); // [2·D, h, w]
    for slice in 0..depth {
        assert!(change.double_value(&[slice, y, x]) > 1e-6, "slice {slice} did not change");
    }
    let elsewhere = change.copy();
    let _ = elsewhere.narrow(0, 0, depth).select(2, x).select(1, y).fill_(0.0);
    assert_eq!(largest(&elsewhere), 0.0, "something else changed");
}

fn vit(adapter: AdapterConfig, depth_position: bool) -> VitConfig {
    VitConfig {
        patch_size: 4,
        embed_dim: 24,
        blocks: 2,
        heads: 3,
        window_size: 4,
        global_blocks: vec![1],
        table_grid: 6,
        taps: vec![0, 1],
        adapter,
        depth_position,
        ..VitConfig::vit_b(24)
    }
}

#[test]
fn fresh_adapters_leave_the_image_encoder_as_it_is() {
    let depth = 3;
    for device in devices() {
        for kind in KINDS {
            let (plain, with, adapters) =
                (VarStore::new(device), VarStore::new(device), VarStore::new(device));
            let none = AdapterConfig::new(AdapterKind::None, depth);
            let expected = ImageEncoderVit::new(&plain.root(), &plain.root(), &vit(none, false));
            let config = vit(AdapterConfig::new(kind, depth), true);
            let adapted = ImageEncoderVit::new(&with.root(), &adapters.root(), &config);
            randomise(&plain);
            copy(&plain, &with);
            assert!(!adapters.is_empty());
            let image = randn(&[2 * depth, 3, 24, 24], device);
            let (expected, adapted) = (expected.forward(&image), adapted.forward(&image));
            assert_eq!(adapted.embedding.device(), device);
            assert!(adapted.embedding.equal(&expected.embedding), "{kind:?}");
            for (adapted, expected) in adapted.taps.iter().zip(&expected.taps) {
                assert!(adapted.equal(expected), "{kind:?}");
            }
        }
    }
}

/// Copies all variables of one store into those of another, which must have the same names.
fn copy(from: &VarStore, to: &VarStore) {
    let (from, to) = (from.variables(), to.variables());
    assert_eq!(from.len(), to.len());
    tch::no_grad(|| to.into_iter().for_each(|(name, mut variable)| variable.copy_(&from[&name])));
}

fn decoder(adapter: AdapterConfig, depth_position: bool) -> MaskDecoderConfig {
    let transformer = TwoWayTransformerConfig {
        embedding_dim: 32,
        heads: 2,
        mlp_dim: 40,
        adapter,
        ..TwoWayTransformerConfig::sam()
    };
    MaskDecoderConfig { transformer, iou_head_hidden_dim: 16, depth_position, ..MaskDecoderConfig::sam(4) }
}

#[test]
fn fresh_adapters_leave_the_mask_decoder_as_it_is() {
    let (depth, classes) = (3, 2);
    for device in devices() {
        for kind in KINDS {
            let (plain, with, adapters) =
                (VarStore::new(device), VarStore::new(device), VarStore::new(device));
            let none = AdapterConfig::new(AdapterKind::None, depth);
            let expected = MaskDecoder::new(&plain.root(), &plain.root(), &decoder(none, false));
            let config = decoder(AdapterConfig::new(kind, depth), true);
            let adapted = MaskDecoder::new(&with.root(), &adapters.root(), &config);
            copy(&plain, &with);
            let per_block = if kind == AdapterKind::Vanilla { 4 } else { 8 };
            assert_eq!(adapters.len(), 9 * per_block + 1, "9 adapters and the depth position embedding");
            let embedding = randn(&[2 * depth, 32, 4, 4], device);
            let image_pe = randn(&[1, 32, 4, 4], device);
            let sparse = randn(&[2 * depth * classes, 3, 32], device);
            let dense = randn(&[2 * depth * classes, 32, 4, 4], device);
            let decode = |decoder: &MaskDecoder| {
                decoder.forward(&embedding, &image_pe, (&sparse, &dense), classes, true)
            };
            let ((masks, iou), (adapted_masks, adapted_iou)) = (decode(&expected), decode(&adapted));
            assert_eq!(masks.size(), [2 * depth, classes, 3, 16, 16]);
            assert!(adapted_masks.equal(&masks) && adapted_iou.equal(&iou), "{kind:?}");
        }
    }
}

#[test]
fn fresh_adapters_at_both_ends_only_resize() {
    for device in devices() {
        for (modalities, patch, image_size) in
            [(1, [8, 8], 32), (2, [8, 6], 24), (3, [16, 16], 16), (4, [10, 12], 9), (1, [5, 7], 32)]
        {
            let store = VarStore::new(device);
            let config = ModalityAdapterConfig { modalities, patch, image_size };
            let adapter = ModalityAdapter::new(&store.root(), &config);
            let volume = randn(&[2, modalities, 3, patch[0], patch[1]], device);
            let image = adapter.forward(&volume);
            assert_eq!(image.size(), [6, 3, image_size, image_size]);
            assert!(image.equal(&resize_to_rgb(&volume, [image_size; 2])), "{config:?}");
            randomise(&store);
            assert!(!adapter.forward(&volume).equal(&image), "{config:?}");
        }
        let store = VarStore::new(device);
        let adapter = ClassesAdapter::new(&store.root(), 4, true);
        let masks = randn(&[2, 4, 3, 16, 16], device);
        let prompts = randn(&[2, 4, 3, 16, 16], device);
        for size in [[16, 16], [20, 24], [9, 5]] {
            let segmentation = adapter.forward(&masks, Some(&prompts), size);
            assert_eq!(segmentation.size(), [2, 4, 3, size[0], size[1]]);
            assert!(segmentation.equal(&resize_logits(&masks, size)));
        }
        randomise(&store);
        let without = adapter.forward(&masks, None, [16, 16]);
        assert!(!without.equal(&masks));
        assert!(!adapter.forward(&masks, Some(&prompts), [16, 16]).equal(&without));
    }
}

#[test]
fn resizing_keeps_slices_and_modalities_in_their_order() {
    let volume = Tensor::arange(2 * 3 * 2, (Kind::Float, Device::Cpu)).view([2, 3, 2, 1, 1]);
    let image = resize_to_rgb(&volume.expand([2, 3, 2, 4, 4], false), [8; 2]);
    assert_eq!(image.size(), [4, 3, 8, 8]);
    let means =
        Vec::<f32>::try_from(image.mean_dim([2i64, 3].as_slice(), false, None).flatten(0, 1)).unwrap();
    assert_eq!(means, [0.0, 2.0, 4.0, 1.0, 3.0, 5.0, 6.0, 8.0, 10.0, 7.0, 9.0, 11.0]);
    let of_two = resize_to_rgb(&volume.narrow(1, 0, 2), [1; 2]);
    assert_eq!(of_two.size(), [4, 3, 1, 1]);
    assert_eq!(Vec::<f32>::try_from(of_two.select(1, 2).flatten(0, -1)).unwrap(), [1.0, 2.0, 7.0, 8.0]);
}

/// Makes the attention of the windowed block 0 the identity over positions: queries and keys do not depend on the
/// image, and the relative position bias of a query's own position outweighs all others.
fn attend_to_own_position(store: &VarStore) {
    let variables = store.variables();
    let head_channels = variables["blocks.0.attn.rel_pos_h"].size()[1];
    let channels = variables["blocks.0.attn.qkv.weight"].size()[1];
    tch::no_grad(|| {
        let _ = variables["blocks.0.attn.qkv.weight"].narrow(0, 0, 2 * channels).fill_(0.0);
        let _ = variables["blocks.0.attn.qkv.bias"].narrow(0, 0, channels).fill_(1.0);
        for name in ["blocks.0.attn.rel_pos_h", "blocks.0.attn.rel_pos_w"] {
            let mut table = variables[name].shallow_clone();
            let own_place = (table.size()[0] - 1) / 2;
            let _ = table.fill_(0.0);
            let _ = table.select(0, own_place).fill_(1000.0 / head_channels as f64);
        }
    });
}

/// The grid of 6 takes 4 padded windows. If windows were mixed instead of slices, this would show: B·D·4 windows
/// could be mistaken for volumes of D slices.
#[test]
fn windowed_blocks_mix_the_slices_of_a_volume_at_one_position() {
    let depth = 3;
    let (row, column) = (4, 1);
    for device in devices() {
        for kind in [AdapterKind::DepthBefore, AdapterKind::DepthAfter, AdapterKind::DepthFused] {
            for changed_slice in 0..depth {
                let (store, adapters) = (VarStore::new(device), VarStore::new(device));
                let config = vit(AdapterConfig::new(kind, depth), true);
                let encoder = ImageEncoderVit::new(&store.root(), &adapters.root(), &config);
                randomise(&store);
                randomise(&adapters);
                attend_to_own_position(&store);
                for silent in ["adapter_attn", "adapter_mlp"] {
                    silence(&adapters, silent, kind);
                    let image = randn(&[2 * depth, 3, 24, 24], device);
                    let other = image.copy();
                    let _ = other
                        .select(0, changed_slice)
                        .select(2, 4 * column + 2)
                        .select(1, 4 * row + 3)
                        .fill_(3.0);
                    let block_output = |image| encoder.forward(image).taps[1].shallow_clone();
                    let (before, changed) = (block_output(&image), block_output(&other));
                    assert_only_one_column_changed(&before, &changed, depth, [row, column]);
                    randomise(&adapters);
                }
            }
        }
    }
}

/// Sets the output of one adapter of block 0 to zero, so that only the other has an effect.
fn silence(adapters: &VarStore, name: &str, kind: AdapterKind) {
    let last = if kind == AdapterKind::DepthAfter { ["up", "depth_shrink"] } else { ["up", "up"] };
    tch::no_grad(|| {
        for layer in last {
            for parameter in ["weight", "bias"] {
                let key = format!("blocks.0.{name}.{layer}.{parameter}");
                let _ = adapters.variables()[&key].shallow_clone().fill_(0.0);
            }
        }
    });
}

#[test]
fn decoder_adapters_mix_the_slices_of_a_volume_but_not_its_classes() {
    let (depth, classes) = (3, 2);
    for device in devices() {
        let (store, adapters) = (VarStore::new(device), VarStore::new(device));
        let config = decoder(AdapterConfig::new(AdapterKind::DepthFused, depth), true);
        let decoder = MaskDecoder::new(&store.root(), &adapters.root(), &config);
        randomise(&adapters);
        let embedding = randn(&[2 * depth, 32, 4, 4], device);
        let image_pe = randn(&[1, 32, 4, 4], device);
        let dense = randn(&[2 * depth * classes, 32, 4, 4], device);
        let sparse = randn(&[2 * depth * classes, 3, 32], device);
        let other = sparse.copy();
        let (volume, slice, class) = (1, 2, 0);
        let _ = other.select(0, (volume * depth + slice) * classes + class).fill_(2.0);
        let masks = |sparse| decoder.forward(&embedding, &image_pe, (sparse, &dense), classes, false).0;
        let change = (masks(&sparse) - masks(&other)).abs().flatten(2, -1).amax([2], false); // [B·D, N]
        for row in 0..2 * depth {
            for column in 0..classes {
                let changes = change.double_value(&[row, column]) > 0.0;
                assert_eq!(changes, row / depth == volume && column == class, "slice {row}, class {column}");
            }
        }
    }
}

#[test]
fn depth_position_tells_slices_apart() {
    let depth = 3;
    let (store, adapters) = (VarStore::new(Device::Cpu), VarStore::new(Device::Cpu));
    let config = vit(AdapterConfig::new(AdapterKind::None, depth), true);
    let encoder = ImageEncoderVit::new(&store.root(), &adapters.root(), &config);
    let same = randn(&[1, 3, 24, 24], Device::Cpu).repeat([2 * depth, 1, 1, 1]);
    randomise(&adapters);
    let tap = encoder.forward(&same).taps[0].shallow_clone();
    assert!(tap.get(0).equal(&tap.get(depth)), "the same slice of another volume");
    assert!(!tap.get(0).equal(&tap.get(1)));
    let table = &adapters.variables()["depth_pos_embed"];
    let expected = (table.get(0).get(1) - table.get(0).get(0)).flatten(0, -1);
    let found = (tap.get(1) - tap.get(0)).select(2, 5).select(1, 2);
    assert!(found.allclose(&expected, 1e-4, 1e-5, false));
}

/// The up-projection of a newly initialised adapter is zero and hides what is below it. With random weights, every
/// part must get a gradient.
#[test]
fn gradients_reach_every_adapter_and_no_frozen_weight() {
    let (depth, classes) = (3, 2);
    for device in devices() {
        let (mut frozen, adapters) = (VarStore::new(device), VarStore::new(device));
        let adapter = AdapterConfig::new(AdapterKind::DepthFused, depth);
        let config = vit(adapter, true);
        let encoder =
            ImageEncoderVit::new(&(frozen.root() / "encoder"), &(adapters.root() / "encoder"), &config);
        let config = MaskDecoderConfig { grid: 6, ..MaskDecoderConfig::sam(6) };
        let transformer = TwoWayTransformerConfig { adapter, ..config.transformer };
        let config = MaskDecoderConfig { transformer, depth_position: true, ..config };
        let decoder = MaskDecoder::new(&(frozen.root() / "decoder"), &(adapters.root() / "decoder"), &config);
        frozen.freeze();
        randomise(&adapters);
        let embedding = encoder.forward(&randn(&[depth, 3, 24, 24], device)).embedding;
        let prompts =
            (randn(&[depth * classes, 2, 256], device), randn(&[depth * classes, 256, 6, 6], device));
        let image_pe = randn(&[1, 256, 6, 6], device);
        let (masks, _) = decoder.forward(&embedding, &image_pe, (&prompts.0, &prompts.1), classes, false);
        masks.square().mean(Kind::Float).backward();
        for (name, variable) in adapters.variables() {
            let gradient = variable.grad();
            assert!(gradient.defined() && largest(&gradient) > 0.0, "{name} has no gradient");
        }
        assert!(frozen.variables().values().all(|variable| !variable.grad().defined()));
    }
}

#[test]
fn vit_tiny_works_at_its_three_sizes() {
    for image_size in [64, 128, 256] {
        let store = VarStore::new(Device::Cpu);
        let config = VitConfig { taps: vec![0, 3], ..VitConfig::vit_tiny(image_size) };
        let encoder = ImageEncoderVit::new(&store.root(), &store.root(), &config);
        let image = randn(&[2, 3, image_size, image_size], Device::Cpu);
        let encoded = tch::no_grad(|| encoder.forward(&image));
        let grid = image_size / 4;
        assert_eq!(encoded.embedding.size(), [2, 256, grid, grid]);
        let sizes: Vec<_> = encoded.taps.iter().map(Tensor::size).collect();
        assert_eq!(sizes, [vec![2, 160, grid, grid], vec![2, 160, grid, grid], vec![2, 256, grid, grid]]);
    }
}

/// On CPUs libtorch can resize 16-bit floats with antialiasing only in fp32. The sizes are not a power-of-two
/// multiple of the patch.
#[test]
fn modalities_are_adapted_in_sixteen_bits_as_in_thirty_two() {
    for (patch, image_size) in [([40, 40], 96), ([100, 90], 64)] {
        let store = VarStore::new(Device::Cpu);
        let config = ModalityAdapterConfig { modalities: 2, patch, image_size };
        let adapter = ModalityAdapter::new(&store.root(), &config);
        randomise(&store);
        let volume = randn(&[1, 2, 3, patch[0], patch[1]], Device::Cpu);
        let expected = tch::no_grad(|| adapter.forward(&volume));
        for kind in [Kind::BFloat16, Kind::Half] {
            tch::no_grad(|| {
                for mut variable in store.trainable_variables() {
                    let converted = variable.detach().to_kind(kind);
                    variable.set_data(&converted);
                }
            });
            let found = tch::no_grad(|| adapter.forward(&volume));
            assert_eq!((found.kind(), found.size()), (kind, expected.size()));
            let error = largest(&(found.to_kind(Kind::Float) - &expected)) / largest(&expected);
            // Seven convolutions, upsamplings and normalisations with an 8-bit mantissa.
            assert!(error < 0.05, "{kind:?} {patch:?} to {image_size}: {error}");
            // One modality only, because the mean of two is rounded differently.
            let (volume, size) = (volume.narrow(1, 0, 1).to_kind(kind), [image_size; 2]);
            let exact = resize_to_rgb(&volume.to_kind(Kind::Float), size).to_kind(kind);
            assert!(resize_to_rgb(&volume, size).equal(&exact), "{kind:?}");
        }
    }
}
