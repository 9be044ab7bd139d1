//! The largest message on each edge of the dataflows that a network implies. A configuration with a message that no
//! edge carries is refused when it is opened.

use super::limits::{MAX_DEPTH, MAX_MESSAGE_BYTES, MAX_WINDOW_BYTES};
use super::{BundleConfig, GeneratorKind, NetworkConfig};

/// Most bytes of a message with several slices: a quarter of dora's limit. A larger slice is sent in a message of
/// its own.
const RUN_BYTES: usize = 16 << 20;
/// Bytes of a value in the smallest type in which features are sent.
pub(crate) const LEAST_FLOAT_BYTES: usize = 2;

/// What a dataflow is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dataflow {
    /// `infer.yml` and `oracle.yml`: one slice per message.
    Segmentation,
    /// `train.yml`: activations and gradients with several slices per message.
    Training,
}

/// The largest message on an edge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edge {
    /// Name of the output; feature levels, and those of the embedding, have an edge each, with the same name.
    pub name: &'static str,
    /// Bytes of the message, without its metadata.
    pub bytes: usize,
    /// Bytes of one slice; `bytes` unless a message holds several.
    slice_bytes: usize,
    /// What it holds.
    contents: String,
    /// What to change if it is too large.
    remedy: &'static str,
}

/// Number of slices in a message between the parts of a network in training, if one has `slice_bytes`.
pub(crate) fn slices_per_message(slice_bytes: usize) -> usize {
    (RUN_BYTES / slice_bytes.max(1)).max(1)
}

impl BundleConfig {
    /// The edges of `dataflow`. The type of features, embedding and their gradients follows the precision of the
    /// computation and has `float_bytes` per value. Masks count as Float32, as training and fp32 send them.
    pub fn edges(&self, dataflow: Dataflow, float_bytes: usize) -> Vec<Edge> {
        let [height, width] = self.patch.plane.size();
        let (modalities, classes) = (self.modalities.len(), self.classes.len());
        let pixels = format!("{height} x {width} pixels");
        let in_plane = |name, of_pixel: usize, contents, remedy| {
            let bytes = product(&[height, width, of_pixel]);
            Edge { name, bytes, slice_bytes: bytes, contents, remedy }
        };
        let masks = |name| {
            let contents = format!("{classes} classes of {pixels}");
            in_plane(
                name,
                classes.saturating_mul(size_of::<f32>()),
                contents,
                "reduce patch.plane or the classes",
            )
        };
        let slices = format!("{modalities} modalities of {pixels}");
        let of_slices = modalities.saturating_mul(size_of::<f32>());
        let mut edges = vec![
            in_plane("slices", of_slices, slices, "reduce patch.plane or the modalities"),
            in_plane("labels", 1, pixels.clone(), "reduce patch.plane"),
        ];
        let depth = if dataflow == Dataflow::Training { self.patch.depth } else { 1 };
        let activations = |name, level| activations(name, level, depth, float_bytes);
        let levels = self.network.levels();
        if self.network.generator != GeneratorKind::None {
            edges.extend(levels.iter().map(|&level| activations("features", level)));
            edges.push(masks("aux_masks"));
        }
        let embedding = levels.last().copied().unwrap_or_default();
        let for_decoder: Vec<[usize; 2]> =
            [embedding].into_iter().chain(levels.iter().copied().take(self.network.finer_levels())).collect();
        edges.extend(for_decoder.iter().map(|&level| activations("embedding", level)));
        edges.push(prompts(&self.network, classes, embedding[1]));
        if dataflow == Dataflow::Training {
            edges.extend(levels.iter().map(|&level| activations("features_grad", level)));
            edges.extend(for_decoder.iter().map(|&level| activations("embedding_grad", level)));
        } else {
            edges.push(masks("logits"));
        }
        edges
    }

    /// Fails with the reason if a message or a window of `dataflow` is larger than an edge carries. For `float_bytes` see
    /// [`BundleConfig::edges`].
    ///
    /// # Errors
    /// The largest edge, its size, and what to change.
    pub fn check_edges(&self, dataflow: Dataflow, float_bytes: usize) -> Result<(), String> {
        // A message with several slices is far below the limit.
        let edges = self.edges(dataflow, float_bytes);
        let Some(largest) = edges.into_iter().rev().max_by_key(|edge| edge.slice_bytes) else {
            return Ok(());
        };
        if largest.slice_bytes > MAX_MESSAGE_BYTES {
            return Err(largest.refusal());
        }
        let depth = self.patch.depth;
        if depth > most_slices(largest.slice_bytes) {
            return Err(format!(
                "{}: a window of {depth} slices of {} is more than the {} GiB that an edge carries; reduce patch.depth",
                largest.name,
                largest.contents,
                MAX_WINDOW_BYTES >> 30
            ));
        }
        Ok(())
    }
}

/// Slices that a window may have, if one has `slice_bytes`.
pub(crate) fn most_slices(slice_bytes: usize) -> usize {
    (MAX_WINDOW_BYTES / slice_bytes.max(1)).min(MAX_DEPTH)
}

impl Edge {
    fn refusal(&self) -> String {
        // Rounded up, so that it is never the limit itself.
        let tenths_of_mib = (self.bytes as u128 * 10).div_ceil(1 << 20);
        format!(
            "{}: a message of {}.{} MiB for {} is more than the {} MiB that an edge carries; {}",
            self.name,
            tenths_of_mib / 10,
            tenths_of_mib % 10,
            self.contents,
            MAX_MESSAGE_BYTES >> 20,
            self.remedy
        )
    }
}

/// Slices of a level `[channels, side]`, as many as fit into a message, at most `depth`.
fn activations(name: &'static str, [channels, side]: [usize; 2], depth: usize, float_bytes: usize) -> Edge {
    let slice_bytes = product(&[channels, side, side, float_bytes]);
    let bytes = slice_bytes.saturating_mul(depth.min(slices_per_message(slice_bytes)));
    let contents = format!("{channels} channels of {side} x {side} values of {float_bytes} bytes");
    let remedy = match float_bytes {
        LEAST_FLOAT_BYTES => "reduce network.image_size",
        _ => "reduce network.image_size, or compute in bf16",
    };
    Edge { name, bytes, slice_bytes, contents, remedy }
}

/// Label, point, box and mask of every class, if the embedding has the side `grid`.
fn prompts(network: &NetworkConfig, classes: usize, grid: usize) -> Edge {
    let used = network.prompts;
    let side = 4 * grid;
    let of_class = 1
        + 2 * usize::from(used.point.is_some())
        + 4 * usize::from(used.boxes)
        + side * side * usize::from(used.mask);
    let contents = match used.mask {
        true => format!("{classes} classes with masks of {side} x {side} values"),
        false => format!("{classes} classes"),
    };
    let bytes = product(&[classes, of_class, size_of::<f32>()]);
    let remedy = "reduce the classes or network.image_size, or switch network.prompts.mask off";
    Edge { name: "prompts", bytes, slice_bytes: bytes, contents, remedy }
}

/// The product, or the largest number if it is larger.
fn product(factors: &[usize]) -> usize {
    factors.iter().fold(1, |product: usize, &factor| product.saturating_mul(factor))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::bundle::{Backbone, Bundle, Plane, PromptConfig};

    /// A bundle with one modality, two classes and windows of 64 x 64 pixels.
    fn config(network: NetworkConfig) -> BundleConfig {
        let mut config = Bundle::plain_lite_medsam(Path::new("")).config;
        config.patch.plane = Plane::Window([64, 64]);
        config.network = network;
        config
    }

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|number| number.to_string()).collect()
    }

    fn refused(config: &BundleConfig, edge: &str, parts: &[&str]) {
        let error = config.check().unwrap_err();
        assert!(error.starts_with(&format!("{edge}: a message of ")), "{edge}: {error}");
        parts.iter().for_each(|part| assert!(error.contains(part), "{part}: {error}"));
    }

    #[test]
    fn every_edge_that_can_have_the_largest_message_is_checked() {
        let full = |image_size| config(NetworkConfig::full(Backbone::VitB, image_size));
        full(1024).check().unwrap();

        let mut many = full(1024);
        (many.modalities, many.patch.plane) = (names(16), Plane::Window([1024, 1024]));
        refused(
            &many,
            "slices",
            &["64.0 MiB for 16 modalities of 1024 x 1024 pixels", "60 MiB", "patch.plane"],
        );
        many.modalities = names(15);
        many.check().unwrap();

        let large = config(NetworkConfig::full(Backbone::LiteMedsam, 1024));
        refused(&large, "features", &["64 channels of 1024 x 1024 values of 2 bytes", "network.image_size"]);

        let mut plain = config(NetworkConfig::plain(Backbone::VitB, 6144));
        refused(&plain, "embedding", &["72.0 MiB", "256 channels of 384 x 384"]);
        plain.network.image_size = 4096;
        plain.check().unwrap();

        let mut classes = full(256);
        (classes.classes, classes.patch.plane) = (names(117), Plane::Window([512, 512]));
        refused(&classes, "aux_masks", &["117.0 MiB for 117 classes of 512 x 512 pixels", "the classes"]);
        classes.network = NetworkConfig::plain(Backbone::VitB, 256);
        refused(&classes, "logits", &["117 classes of 512 x 512 pixels"]);
        classes.classes = names(60);
        classes.check().unwrap();

        let mut prompted = full(1024);
        prompted.classes = names(254);
        refused(&prompted, "prompts", &["254 classes with masks of 256 x 256", "network.prompts.mask"]);
        prompted.network.prompts = PromptConfig { mask: false, ..PromptConfig::default() };
        prompted.check().unwrap();
    }

    #[test]
    fn the_precision_decides_about_features_in_between() {
        let config = config(NetworkConfig::full(Backbone::LiteMedsam, 512));
        for dataflow in [Dataflow::Segmentation, Dataflow::Training] {
            config.check_edges(dataflow, LEAST_FLOAT_BYTES).unwrap();
            let error = config.check_edges(dataflow, size_of::<f32>()).unwrap_err();
            assert!(
                error.starts_with("features: a message of 64.0 MiB") && error.ends_with("bf16"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_message_with_several_slices_has_at_most_a_quarter_of_the_limit() {
        let mib = 1 << 20;
        assert_eq!([5 * mib, 8 * mib, 9 * mib, 40 * mib].map(slices_per_message), [3, 2, 1, 1]);
        let bytes = |depth| activations("features", [5, 512], depth, 4).bytes / mib;
        assert_eq!([1, 2, 3, 8].map(bytes), [5, 10, 15, 15]);
    }

    #[test]
    fn a_window_that_no_edge_carries_is_refused() {
        let mut config = config(NetworkConfig::plain(Backbone::VitB, 2048));
        config.patch.depth = 1024;
        config.check().unwrap();
        config.patch.depth = 1025;
        let error = config.check().unwrap_err();
        assert!(
            error.starts_with("embedding: a window of 1025 slices of 256 channels of 128 x 128"),
            "{error}"
        );
        assert!(error.contains("8 GiB") && error.ends_with("patch.depth"), "{error}");
    }

    #[test]
    fn a_message_just_above_the_limit_is_said_to_be_larger() {
        let mut config = config(NetworkConfig::plain(Backbone::VitB, 256));
        config.patch.plane = Plane::Window([3 << 20, 5]);
        refused(&config, "logits", &["120.0 MiB"]);
        config.patch.plane = Plane::Window([1 << 18, 30]);
        config.check().unwrap();
        config.patch.plane = Plane::Window([(1 << 18) + 1, 30]);
        refused(&config, "logits", &["60.1 MiB"]);
    }
}
