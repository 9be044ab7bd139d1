//! The whole network in one process: every row of the paper's Table 3 runs, and the full model starts as SAM.

use ndarray::Array3;
use self_prompt_sam::bundle::{
    Backbone, Bundle, BundleConfig, NetworkConfig, Normalisation, Patch, Plane, SliceAxis, WeightFile,
};
use self_prompt_sam::compute::Compute;
use self_prompt_sam::network::segmenter::{Segmenter, write_fresh_weights};
use self_prompt_sam::training::Variant;
use self_prompt_sam::weights::sha256_file;
use tch::{Device, Kind, Tensor};
use tempfile::TempDir;

const DEPTH: usize = 4;
const SIDE: usize = 64;

/// A bundle with two classes, without the hashes of its files.
pub fn config(network: NetworkConfig, modalities: usize) -> BundleConfig {
    let file = |name: &str| WeightFile { file: name.into(), sha256: String::new() };
    BundleConfig {
        name: "test".into(),
        classes: ["background", "one", "two"].map(String::from).to_vec(),
        codes: Default::default(),
        modalities: (0..modalities).map(|index| format!("M{index}")).collect(),
        slice_axis: SliceAxis::Axial,
        spacing_mm: None,
        patch: Patch {
            depth: DEPTH,
            plane: Plane::Window([SIDE, SIDE]),
            depth_overlap: 0.5,
            plane_overlap: 0.5,
            mirror: [false; 3],
            locate: None,
        },
        normalisation: Normalisation::ZScore,
        largest_component: false.into(),
        network,
        weights: file("backbone.safetensors"),
        adapters: Some(file("adapters.safetensors")),
    }
}

/// A bundle on disk with newly initialised weights.
fn bundle(network: NetworkConfig, modalities: usize) -> (TempDir, Bundle) {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(network, modalities);
    let (backbone, adapters) =
        (folder.path().join("backbone.safetensors"), folder.path().join("adapters.safetensors"));
    write_fresh_weights(&config, 3, &adapters, Some(&backbone)).unwrap();
    config.weights.sha256 = sha256_file(&backbone).unwrap();
    config.adapters.as_mut().unwrap().sha256 = sha256_file(&adapters).unwrap();
    let bundle = Bundle { folder: folder.path().to_path_buf(), config };
    (folder, bundle)
}

fn window(modalities: i64) -> Tensor {
    tch::manual_seed(1);
    Tensor::randn([DEPTH as i64, modalities, SIDE as i64, SIDE as i64], (Kind::Float, Device::Cpu))
}

#[test]
fn every_row_of_the_ablation_runs_and_prompts_itself() {
    for row in Variant::ALL {
        let network = row.of(&NetworkConfig::full(Backbone::VitTiny, SIDE as i64));
        let row = row.name();
        let (_folder, bundle) = bundle(network, 1);
        let segmenter = Segmenter::load(&bundle, Compute::fp32(Device::Cpu)).unwrap();
        let logits = segmenter.segment(&window(1), None, None).unwrap();
        assert_eq!(logits.size(), [DEPTH as i64, 3, SIDE as i64, SIDE as i64], "{row}");
        assert!(bool::try_from(logits.isfinite().all()).unwrap(), "{row}");
    }
    assert!("S10".parse::<Variant>().is_err());
}

#[test]
fn two_modalities_become_rgb() {
    let (_folder, bundle) = bundle(NetworkConfig::full(Backbone::VitTiny, SIDE as i64), 2);
    let segmenter = Segmenter::load(&bundle, Compute::fp32(Device::Cpu)).unwrap();
    assert_eq!(segmenter.segment(&window(2), None, None).unwrap().size()[1], 3);
    assert!(segmenter.segment(&window(1), None, None).unwrap_err().to_string().contains("[4, 2, 64, 64]"));
}

/// The full model with newly initialised modules, compared with plain SAM: same backbone, same prompts.
#[test]
fn the_full_model_starts_as_sam() {
    let labels = Array3::from_shape_fn((DEPTH, SIDE, SIDE), |(z, y, x)| match (y / 16, x / 16) {
        (1, 1) => 1,
        (2, 2) if z > 0 => 2,
        _ => 0,
    });
    let full = NetworkConfig::full(Backbone::VitTiny, SIDE as i64);
    let sam = NetworkConfig {
        prompts: full.prompts,
        .."S2".parse::<Variant>().unwrap().of(&NetworkConfig::full(Backbone::VitTiny, SIDE as i64))
    };
    let ((full_folder, full), (sam_folder, mut sam)) = (bundle(full, 1), bundle(sam, 1));
    std::fs::copy(full.path_of(&full.config.weights), sam.path_of(&sam.config.weights)).unwrap();
    sam.config.weights.sha256.clone_from(&full.config.weights.sha256);
    let window = window(1);
    let [full, sam] = [full, sam].map(|bundle| {
        let segmenter = Segmenter::load(&bundle, Compute::fp32(Device::Cpu)).unwrap();
        segmenter.segment(&window, None, Some((labels.view(), 3))).unwrap()
    });
    drop((full_folder, sam_folder));
    assert!(full.equal(&sam));
    assert!(full.std(false).double_value(&[]) > 1e-6, "the output says nothing");
}
