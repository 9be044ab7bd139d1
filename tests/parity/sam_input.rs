//! The input of SAM's image encoder for volumes on disk, compared with PyPI `segment-anything` 1.0: slices that are
//! not square, smaller and larger than the network's input.

use std::path::PathBuf;

use self_prompt_sam::bundle::{
    Backbone, BundleConfig, NetworkConfig, Normalisation, Patch, Plane, SliceAxis, WeightFile,
};
use self_prompt_sam::network::segmenter::Encoder;
use self_prompt_sam::training::slices_of;
use self_prompt_sam::volume::{CaseFiles, CasePlan, PreparedCase};
use tch::nn::VarStore;
use tch::{Device, Tensor};

use crate::python::run;

const SIDE: usize = 96;

fn config(mirror: [bool; 3]) -> BundleConfig {
    BundleConfig {
        name: "plain SAM".into(),
        classes: vec!["background".into(), "foreground".into()],
        codes: Default::default(),
        modalities: vec!["any".into()],
        spacing_mm: None,
        slice_axis: SliceAxis::Axial,
        patch: Patch {
            depth: 2,
            plane: Plane::WholeSlice(SIDE),
            depth_overlap: 0.0,
            plane_overlap: 0.0,
            mirror,
            locate: None,
        },
        normalisation: Normalisation::Window { low: 0.0, high: 255.0 },
        largest_component: false.into(),
        network: NetworkConfig::plain(Backbone::VitB, SIDE as i64),
        weights: WeightFile { file: PathBuf::new(), sha256: String::new() },
        adapters: None,
    }
}

/// The network's input for window `k` of the volume `name` in `folder`.
fn input(folder: &std::path::Path, name: &str, encoder: &Encoder, mirror: [bool; 3], k: usize) -> Tensor {
    let images = vec![folder.join(format!("{name}.nii.gz"))];
    let files = CaseFiles { case_id: name.into(), images, labels: None };
    let plan = CasePlan::new(&files, &config(mirror), None).unwrap();
    let case = PreparedCase::open(&plan, &config(mirror)).unwrap();
    encoder.prepare(&slices_of(&case.window(k)), plan.covered(k)).unwrap()
}

#[test]
fn slices_of_any_shape_are_prepared_as_sam_prepares_them() {
    let folder = run("sam_input_reference.py");
    let (sam, trained) = (VarStore::new(Device::Cpu), VarStore::new(Device::Cpu));
    let encoder = Encoder::new(&config([false; 3]), &sam, &trained);
    for (name, expected) in Tensor::read_safetensors(folder.join("reference.safetensors")).unwrap() {
        let (shape, kind) = name.split_once('.').unwrap();
        // After standardisation a grey level is 0.0175. Sums have another order, and the predictor rounds to integer
        // levels twice.
        let tolerance = if kind == "exact" { 1e-4 } else { 0.03 };
        let found = input(&folder, shape, &encoder, [false; 3], 0);
        assert_eq!(found.size(), expected.size(), "{name}");
        let error = (&found - &expected).abs().max().double_value(&[]);
        println!("{name}: largest difference {error:.1e}");
        assert!(error < tolerance, "{name}: {error}");
        // Mirrored windows have their padding at the other end.
        let mirrored = input(&folder, shape, &encoder, [false, false, true], 1);
        let error = (mirrored.flip([3]) - &expected).abs().max().double_value(&[]);
        assert!(error < tolerance, "{name}, mirrored: {error}");
    }
}
