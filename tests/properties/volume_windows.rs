//! Windows and how they are put together again.

#![expect(clippy::unwrap_used, reason = "a helper fails as its test does")]

use std::collections::BTreeSet;

use ndarray::{Array3, Array4};
use proptest::prelude::*;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;
use self_prompt_sam::bundle::{AdapterKind, Backbone, NetworkConfig, Plane};
use self_prompt_sam::volume::{CasePlan, LabelAssembler, PreparedCase, read_labels};

use crate::volumes::{Nifti, case, config, identity_segmentation};

fn random_file(folder: &std::path::Path, shape: [usize; 3], spacing: [f32; 3]) -> std::path::PathBuf {
    let voxels = (0..shape.iter().product::<usize>()).map(|index| (index * 31 % 251) as u8).collect();
    let file = Nifti::u8(&shape.map(|side| side as i16), voxels).spaced(spacing);
    file.write(&folder.join("image.nii"))
}

fn assemble(plan: &CasePlan, windows: &[Array4<f32>], order: &[usize]) -> Array3<u8> {
    let mut assembler = LabelAssembler::new(plan, windows[0].dim().0);
    for (count, &window) in order.iter().enumerate() {
        assert_eq!(assembler.missing().len(), order.len() - count);
        assert!(assembler.push(window, windows[window].view()).unwrap());
        assert!(!assembler.push(window, windows[0].view()).unwrap(), "a second push is ignored");
    }
    assembler.finish()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn labels_do_not_depend_on_the_order_of_arrival(
        shape in prop::array::uniform3(1usize..18), patch in prop::array::uniform3(1usize..9),
        scale in 0.6f64..1.7, mirror in any::<[bool; 3]>(), seed in any::<u64>(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let image = random_file(folder.path(), shape, [1.0, 1.0, 1.5]);
        let mut config = config(1, Plane::Window([patch[1], patch[2]]), patch[0]);
        config.spacing_mm = Some([1.5 * scale, scale, scale]);
        config.patch.mirror = mirror;
        let plan = CasePlan::new(&case(&image, None), &config, None).unwrap();
        let mut rng = Pcg64::seed_from_u64(seed);
        let [d, h, w] = plan.patch();
        let windows: Vec<_> = plan.windows().iter()
            .map(|_| Array4::from_shape_simple_fn((3, d, h, w), || rng.random_range(-5.0f32..5.0)))
            .collect();
        let mut order: Vec<usize> = (0..windows.len()).collect();
        let in_order = assemble(&plan, &windows, &order);
        order.reverse();
        prop_assert_eq!(&assemble(&plan, &windows, &order), &in_order);
        order.shuffle(&mut rng);
        prop_assert_eq!(&assemble(&plan, &windows, &order), &in_order);
    }

    /// Against the definition: blend everything in f64, interpolate trilinearly, take the largest.
    #[test]
    fn labels_are_those_of_the_whole_blended_volume(
        shape in prop::array::uniform3(2usize..14), patch in prop::array::uniform3(2usize..8),
        scale in 0.6f64..1.7, mirror in any::<[bool; 3]>(), seed in any::<u64>(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let image = random_file(folder.path(), shape, [1.0, 1.0, 1.5]);
        let mut config = config(1, Plane::Window([patch[1], patch[2]]), patch[0]);
        config.spacing_mm = Some([1.5 * scale, scale, scale]);
        config.patch.mirror = mirror;
        let plan = CasePlan::new(&case(&image, None), &config, None).unwrap();
        let mut rng = Pcg64::seed_from_u64(seed);
        let [d, h, w] = plan.patch();
        // Some classes are above others everywhere, some only here and there.
        let offsets = [(); 3].map(|()| rng.random_range(-8.0f32..8.0));
        let windows: Vec<_> = plan.windows().iter()
            .map(|_| Array4::from_shape_fn((3, d, h, w), |(class, ..)| offsets[class] + rng.random_range(-5.0..5.0)))
            .collect();
        let order: Vec<usize> = (0..windows.len()).collect();
        let labels = assemble(&plan, &windows, &order);

        let blended = blend(&plan, &windows);
        let (nz, ny, nx) = (plan.network_shape[0], plan.network_shape[1], plan.network_shape[2]);
        let [x_side, y_side, z_side] = shape;
        for z in 0..z_side {
            for y in 0..y_side {
                for x in 0..x_side {
                    let logit = |class: usize| {
                        let mut sum = 0.0;
                        for (z, wz) in between(z, z_side, nz) {
                            for (y, wy) in between(y, y_side, ny) {
                                for (x, wx) in between(x, x_side, nx) {
                                    sum += wz * wy * wx * blended[[class, z, y, x]];
                                }
                            }
                        }
                        sum
                    };
                    let logits = [logit(0), logit(1), logit(2)];
                    let chosen = logits[usize::from(labels[[x, y, z]])];
                    let largest = logits.iter().copied().fold(f64::MIN, f64::max);
                    // f32 sums against f64: a tie may go either way
                    prop_assert!(largest - chosen < 1e-4, "{:?} at {:?}", logits, [x, y, z]);
                }
            }
        }
    }
}

fn blend(plan: &CasePlan, windows: &[Array4<f32>]) -> Array4<f64> {
    let [nz, ny, nx] = plan.network_shape;
    let [d, h, w] = plan.patch();
    let mut sums = Array4::<f64>::zeros((3, nz, ny, nx));
    let mut weights = Array3::<f64>::zeros((nz, ny, nx));
    let gauss = |offset: usize, length: usize| {
        let from_centre = offset as f64 - (length as f64 - 1.0) / 2.0;
        (-0.5 * (from_centre / (length as f64 / 8.0)).powi(2)).exp()
    };
    for (k, (window, &[z0, y0, x0])) in windows.iter().zip(plan.windows()).enumerate() {
        let [z_mirrored, y_mirrored, x_mirrored] = plan.mirrored(k);
        for ((class, z, y, x), &logit) in window.indexed_iter() {
            let z = if z_mirrored { d - 1 - z } else { z };
            let y = if y_mirrored { h - 1 - y } else { y };
            let x = if x_mirrored { w - 1 - x } else { x };
            let at = [z0 + z, y0 + y, x0 + x];
            if at[0] < nz && at[1] < ny && at[2] < nx {
                let weight = gauss(z, d) * gauss(y, h) * gauss(x, w);
                sums[[class, at[0], at[1], at[2]]] += weight * f64::from(logit);
                if class == 0 {
                    weights[at] += weight;
                }
            }
        }
    }
    sums / weights
}

fn between(index: usize, output: usize, input: usize) -> [(usize, f64); 2] {
    let position = ((index as f64 + 0.5) * input as f64 / output as f64 - 0.5).clamp(0.0, (input - 1) as f64);
    let low = position.floor() as usize;
    let weight = position - low as f64;
    [(low, 1.0 - weight), ((low + 1).min(input - 1), weight)]
}

#[test]
fn windows_cover_the_volume_slice_by_slice_and_pad_with_zeros() {
    let folder = tempfile::tempdir().unwrap();
    let image = random_file(folder.path(), [10, 7, 5], [1.0, 1.0, 2.0]);
    let mut config = config(1, Plane::Window([4, 16]), 8);
    let plan = CasePlan::new(&case(&image, None), &config, None).unwrap();
    assert_eq!((plan.network_shape, plan.patch()), ([5, 7, 10], [8, 4, 16]));
    assert_eq!(plan.windows(), [[0, 0, 0], [0, 2, 0], [0, 3, 0]]);
    let prepared = PreparedCase::open(&plan, &config).unwrap();
    let window = prepared.window(1);
    assert_eq!(window.dim(), (1, 8, 4, 16));
    for ((_, z, y, x), &value) in window.indexed_iter() {
        let stored = if z < 5 && x < 10 { (((z * 7 + y + 2) * 10 + x) * 31 % 251) as f32 } else { 0.0 };
        assert_eq!(value, stored.min(1.0)); // the test's normalisation clips to [0, 1]
    }
    // A network that does not mix slices takes fewer of them; every other needs its number.
    config.network = NetworkConfig::plain(Backbone::VitTiny, 64);
    assert_eq!(CasePlan::new(&case(&image, None), &config, None).unwrap().patch(), [5, 4, 16]);
    config.network.adapter = AdapterKind::DepthBefore;
    assert_eq!(CasePlan::new(&case(&image, None), &config, None).unwrap().patch(), [8, 4, 16]);
}

#[test]
fn plans_travel_as_small_json() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image.nii");
    let file = Nifti::u8(&[512, 512, 300], Vec::new()).spaced([0.7, 0.7, 1.5]);
    std::fs::write(&image, file.bytes()).unwrap();
    let sparse = std::fs::OpenOptions::new().write(true).open(&image).unwrap();
    sparse.set_len(352 + 512 * 512 * 300).unwrap();
    let mut config = config(1, Plane::Window([64, 64]), 8);
    config.patch.mirror = [true, false, true];
    let region = Some([[10.1, 20.2, 30.3], [300.4, 310.5, 400.6]]);
    let plan = CasePlan::new(&case(&image, None), &config, region).unwrap();
    assert!(plan.windows().len() > 1000);
    let json = serde_json::to_string(&plan).unwrap();
    assert!(json.len() < 2048, "{} bytes", json.len());
    let back: CasePlan = serde_json::from_str(&json).unwrap();
    assert_eq!((back.windows(), back.mirror), (plan.windows(), config.patch.mirror));
    let broken = json.replace("\"axes\":[2,1,0]", "\"axes\":[2,1,1]");
    assert!(serde_json::from_str::<CasePlan>(&broken).is_err());
}

#[test]
fn wrong_windows_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let image = random_file(folder.path(), [8, 8, 4], [1.0; 3]);
    let config = config(1, Plane::Window([8, 8]), 4);
    let plan = CasePlan::new(&case(&image, None), &config, None).unwrap();
    let mut assembler = LabelAssembler::new(&plan, 3);
    let wrong_shape = Array4::zeros((2, 4, 8, 8));
    let error = assembler.push(0, wrong_shape.view()).unwrap_err().to_string();
    assert!(error.contains("case case") && error.contains("(3, 4, 8, 8)"), "{error}");
    let logits = Array4::zeros((3, 4, 8, 8));
    assert!(assembler.push(1, logits.view()).is_err());
    assert_eq!(assembler.missing(), [0]);
}

#[test]
fn every_place_is_cut_in_every_way_to_mirror_it() {
    let folder = tempfile::tempdir().unwrap();
    let image = random_file(folder.path(), [10, 7, 5], [1.0, 1.0, 2.0]);
    let labels = (0..10 * 7 * 5).map(|index| (index * 7 % 4) as u8).collect();
    let labels = Nifti::u8(&[10, 7, 5], labels).spaced([1.0, 1.0, 2.0]);
    let labels = labels.write(&folder.path().join("labels.nii"));
    let files = case(&image, Some(&labels));
    let mut config = config(1, Plane::Window([4, 6]), 3);
    let open =
        |config: &_| PreparedCase::open(&CasePlan::new(&files, config, None).unwrap(), config).unwrap();
    let plain = open(&config);
    config.patch.mirror = [true, false, true];
    let mirrored = open(&config);
    let plan = mirrored.plan();
    assert_eq!(plan.windows().len(), 4 * plain.plan().windows().len());
    for (place, start) in plain.plan().windows().iter().enumerate() {
        let expected = plain.window(place);
        let ways: BTreeSet<[bool; 3]> = (4 * place..4 * place + 4)
            .map(|k| {
                let way = plan.mirrored(k);
                assert_eq!(plan.windows()[k], *start);
                let window = mirrored.window(k);
                for ((m, z, y, x), &value) in window.indexed_iter() {
                    let from = [m, if way[0] { 2 - z } else { z }, y, if way[2] { 5 - x } else { x }];
                    assert_eq!(value, expected[from]);
                }
                way
            })
            .collect();
        assert_eq!(ways.len(), 4);
        assert!(ways.iter().all(|way| !way[1]));
    }
    let (whole, _) = read_labels(&labels).unwrap();
    assert_eq!(identity_segmentation(plan, &mirrored, 4), whole);
}
