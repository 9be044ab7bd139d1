//! Shared by the tests of volumes: bundles, NIfTI files made by hand, Python.

#![expect(clippy::unwrap_used, reason = "a helper fails as its test does")]

use std::path::{Path, PathBuf};
use std::process::Command;

use ndarray::Array3;
use self_prompt_sam::bundle::{
    Backbone, BundleConfig, NetworkConfig, Normalisation, Patch, Plane, SliceAxis, WeightFile,
};
use self_prompt_sam::volume::{CaseFiles, CasePlan, LabelAssembler, LabelFiles, PreparedCase};

pub use crate::nifti::Nifti;

pub fn config(modalities: usize, plane: Plane, depth: usize) -> BundleConfig {
    BundleConfig {
        name: "test".into(),
        classes: ["background", "a", "b", "c"].map(String::from).to_vec(),
        codes: Default::default(),
        modalities: (0..modalities).map(|index| format!("M{index}")).collect(),
        slice_axis: SliceAxis::Axial,
        spacing_mm: None,
        patch: Patch {
            depth,
            plane,
            depth_overlap: 0.5,
            plane_overlap: 0.5,
            mirror: [false; 3],
            locate: None,
        },
        normalisation: Normalisation::Window { low: 0.0, high: 1.0 },
        largest_component: false.into(),
        network: NetworkConfig::full(Backbone::VitTiny, 64),
        weights: WeightFile { file: "weights".into(), sha256: String::new() },
        adapters: None,
    }
}

pub fn case(image: &Path, labels: Option<&Path>) -> CaseFiles {
    CaseFiles {
        case_id: "case".into(),
        images: vec![image.into()],
        labels: labels.map(|path| LabelFiles::Volume(path.into())),
    }
}

/// The segmentation that finds exactly the case's labels: 10 for the label of a voxel, 0 for other classes.
pub fn identity_segmentation(plan: &CasePlan, case: &PreparedCase, classes: usize) -> Array3<u8> {
    let mut assembler = LabelAssembler::new(plan, classes);
    for window in 0..plan.windows().len() {
        let labels = case.label_window(window).unwrap();
        let (depth, height, width) = labels.dim();
        let logits = ndarray::Array4::from_shape_fn((classes, depth, height, width), |(class, z, y, x)| {
            if usize::from(labels[[z, y, x]]) == class { 10.0 } else { 0.0 }
        });
        assert!(assembler.push(window, logits.view()).unwrap());
    }
    assert_eq!(assembler.missing(), Vec::<usize>::new());
    assembler.finish()
}

/// The interpreter that has the packages of the tests.
pub fn python_program() -> PathBuf {
    let own = || Path::new(env!("CARGO_MANIFEST_DIR")).join(".spsam/venv/bin/python");
    std::env::var_os("SPSAM_PYTHON").map_or_else(own, PathBuf::from)
}

/// Runs a script of `tests/python`; its output where it fails.
pub fn python(script: &str, folder: &Path) -> Result<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = python_program();
    let output = Command::new(&python)
        .arg(root.join("tests/python").join(script))
        .arg(folder)
        .output()
        .map_err(|error| format!("{}: {error}", python.display()))?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    if output.status.success() { Ok(text) } else { Err(text) }
}

/// Raw little-endian float32.
pub fn read_f32(path: &Path) -> Vec<f32> {
    let bytes = std::fs::read(path).unwrap();
    bytes.as_chunks().0.iter().map(|&value| f32::from_le_bytes(value)).collect()
}

impl Nifti {
    pub fn u8(sides: &[i16], voxels: Vec<u8>) -> Self {
        Self::new(sides, 2, voxels)
    }

    pub fn f32(sides: &[i16], voxels: &[f32]) -> Self {
        Self::new(sides, 16, voxels.iter().flat_map(|voxel| voxel.to_le_bytes()).collect())
    }
}

/// The file with another sform.
pub fn with_affine(mut file: Vec<u8>, affine: &[[f64; 4]; 3]) -> Vec<u8> {
    for (at, &value) in affine.iter().flatten().enumerate() {
        file[280 + 4 * at..284 + 4 * at].copy_from_slice(&(value as f32).to_le_bytes());
    }
    file
}

/// The file with other bytes at some places.
pub fn edited(mut file: Vec<u8>, edits: &[(usize, &[u8])]) -> Vec<u8> {
    for &(at, bytes) in edits {
        file[at..at + bytes.len()].copy_from_slice(bytes);
    }
    file
}

/// What `f` returns, and the warnings it logs.
pub fn warnings_of<T>(f: impl FnOnce() -> T) -> (T, Vec<String>) {
    #[derive(Clone, Default)]
    struct Lines(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);
    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let lines = Lines::default();
    let sink = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::WARN)
        .without_time()
        .with_ansi(false)
        .with_writer(move || sink.clone())
        .finish();
    let result = tracing::subscriber::with_default(subscriber, f);
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    (result, text.lines().map(String::from).collect())
}
