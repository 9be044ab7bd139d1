//! Networks that the benches time.

use self_prompt_sam::bundle::{
    Backbone, BundleConfig, NetworkConfig, Normalisation, Patch, Plane, SliceAxis, WeightFile,
};

/// Plain SAM on windows of `depth` slices that are already normalised RGB images of the network's size, so that only
/// the backbone is timed. `classes` includes the background.
pub fn plain(backbone: Backbone, image_size: i64, depth: usize, classes: usize) -> BundleConfig {
    BundleConfig {
        name: "bench".into(),
        classes: (0..classes).map(|class| format!("class {class}")).collect(),
        codes: Default::default(),
        modalities: ["red", "green", "blue"].map(String::from).to_vec(),
        slice_axis: SliceAxis::Axial,
        spacing_mm: None,
        patch: Patch {
            depth,
            plane: Plane::Window([image_size as usize; 2]),
            depth_overlap: 0.0,
            plane_overlap: 0.0,
            mirror: [false; 3],
            locate: None,
        },
        normalisation: Normalisation::ZScore,
        largest_component: false.into(),
        // No taps: the official encoder returns only the embedding.
        network: NetworkConfig { taps: Some(Vec::new()), ..NetworkConfig::plain(backbone, image_size) },
        weights: WeightFile { file: "backbone.safetensors".into(), sha256: String::new() },
        adapters: None,
    }
}
