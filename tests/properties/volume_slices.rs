//! Slices are stacked along the model's axis, whatever the spacing of a case.

use self_prompt_sam::bundle::{Bundle, Plane, SliceAxis};
use self_prompt_sam::training::TrainingConfig;
use self_prompt_sam::volume::{CasePlan, Grid, PreparedCase};

use crate::volumes::{Nifti, case, config, warnings_of};

const AXES: [(SliceAxis, usize); 3] =
    [(SliceAxis::Axial, 2), (SliceAxis::Coronal, 1), (SliceAxis::Sagittal, 0)];

#[test]
fn slices_are_the_models_for_every_spacing() {
    let folder = tempfile::tempdir().unwrap();
    // A CT whose voxels are longest within slices, a sagittal MPRAGE, an isotropic volume, a thick coronal scan.
    let spacings = [[0.98, 0.98, 0.63], [1.2, 1.0, 1.0], [1.0; 3], [0.8, 3.0, 0.8]];
    for (number, spacing) in spacings.into_iter().enumerate() {
        let voxels: Vec<f32> = (0..120).map(|voxel| voxel as f32 / 120.0).collect();
        let file = Nifti::f32(&[6, 5, 4], &voxels).spaced(spacing);
        let image = file.write(&folder.path().join(format!("scan_{number}.nii")));
        for (slice_axis, axis) in AXES {
            let mut config = config(1, Plane::Window([6, 6]), 6);
            config.slice_axis = slice_axis;
            let (plan, warnings) = warnings_of(|| CasePlan::new(&case(&image, None), &config, None).unwrap());
            assert_eq!(plan.grid.axes[0], axis, "{spacing:?}");
            assert_eq!(plan.grid.spacing_mm[0] as f32, spacing[axis]);
            let window = PreparedCase::open(&plan, &config).unwrap().window(0);
            let step = [1.0, 6.0, 30.0][axis] / 120.0;
            assert!((window[[0, 1, 0, 0]] - step).abs() < 1e-6, "{spacing:?} {slice_axis:?}");
            let coarser = spacing.iter().any(|&other| other >= 2.0 * spacing[axis]);
            assert_eq!(warnings.len(), usize::from(coarser), "{spacing:?} {slice_axis:?}: {warnings:?}");
            assert!(
                warnings.iter().all(|w| w.contains("scan_3.nii: its voxels are 3.00 mm long")),
                "{warnings:?}"
            );
        }
    }
}

#[test]
fn a_single_slice_is_one_whichever_axis_it_lies_across() {
    for (shape, axis) in [([8, 6, 1], 2), ([8, 1, 6], 1), ([1, 8, 6], 0)] {
        let eye = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]];
        for (slice_axis, _) in AXES {
            assert_eq!(Grid::new(shape, eye, slice_axis).axes[0], axis);
        }
    }
    // A single row is not a slice across two axes.
    let eye = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]];
    assert_eq!(Grid::new([8, 1, 1], eye, SliceAxis::Axial).axes[0], 2);
}

#[test]
fn shipped_models_and_configurations_say_their_axis() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    for name in ["models/hippocampus/model.yml", "models/acdc/model.yml"] {
        let text = std::fs::read_to_string(root.join(name)).unwrap();
        assert!(text.contains("\nslice_axis: axial\n"), "{name}");
        assert_eq!(Bundle::open(&root.join(name)).unwrap().config.slice_axis, SliceAxis::Axial);
        // Bundles of earlier versions have axial slices.
        let old: self_prompt_sam::bundle::BundleConfig =
            serde_yaml::from_str(&text.replace("slice_axis: axial\n", "")).unwrap();
        assert_eq!(old.slice_axis, SliceAxis::Axial);
    }
    for entry in std::fs::read_dir(root.join("configs")).unwrap() {
        let path = entry.unwrap().path();
        assert!(std::fs::read_to_string(&path).unwrap().contains("slice_axis: axial"), "{}", path.display());
        let mut config = TrainingConfig::open(&path).unwrap();
        config.model.slice_axis = SliceAxis::Sagittal;
        assert_eq!(config.model.without_files().slice_axis, SliceAxis::Sagittal);
    }
    assert_eq!("Coronal".parse(), Ok(SliceAxis::Coronal));
    assert!("oblique".parse::<SliceAxis>().unwrap_err().contains("sagittal"));
}
