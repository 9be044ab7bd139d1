//! A training that starts from the weights of a bundle with other classes, other modalities or another image size.

use tch::{Kind, Tensor};

use crate::bundle::BundleConfig;
use crate::weights::Fit;

/// The mask decoder's embedding of the positions of slices, `[D, C, h, w]`.
const POSITIONS: &str = "mask_decoder.depth_pos_embed";

/// Fits weights of the network `old` into the network `new`. What belongs to a class or a modality goes to the one with the
/// same name; new ones have their initial values, or no effect where they are inputs. The mask decoder's embedding of
/// slice positions is resized bilinearly.
#[derive(Debug, Clone, Copy)]
pub struct Start<'a> {
    /// The network of the bundle.
    pub old: &'a BundleConfig,
    /// The network to be trained.
    pub new: &'a BundleConfig,
}

/// Names along an axis of a weight: those in the bundle, and those in the new network.
struct Named<'a> {
    axis: usize,
    old: &'a [String],
    new: &'a [String],
    /// Whether the first is the background, whatever its name.
    has_background: bool,
}

impl Named<'_> {
    /// Place in the bundle of each name of the new network.
    fn places(&self) -> impl Iterator<Item = Option<usize>> {
        let first = usize::from(self.has_background);
        self.new.iter().enumerate().map(move |(index, name)| match index < first {
            true => Some(index),
            false => (first..self.old.len()).find(|&place| self.old[place] == *name),
        })
    }

    /// Names that are in both, only in the new network, and only in the bundle.
    fn compared(&self) -> [Vec<&str>; 3] {
        let first = usize::from(self.has_background);
        let [old, new] = [self.old, self.new].map(|names| &names[first.min(names.len())..]);
        let (kept, added) =
            new.iter().map(String::as_str).partition(|&name| old.iter().any(|old| old == name));
        let gone = old.iter().filter(|name| !new.contains(name)).map(String::as_str);
        [kept, added, gone.collect()]
    }
}

impl<'a> Start<'a> {
    fn classes(&self, axis: usize) -> Named<'a> {
        Named { axis, old: &self.old.classes, new: &self.new.classes, has_background: true }
    }

    fn modalities(&self) -> Named<'a> {
        Named { axis: 1, old: &self.old.modalities, new: &self.new.modalities, has_background: false }
    }

    /// The names along an axis of the weight `key`, if it has such an axis.
    fn named(&self, key: &str) -> Option<Named<'a>> {
        match key {
            "modality_adapter.first.weight" => Some(self.modalities()),
            "classes_adapter.expand.weight" | "classes_adapter.expand_prompts.weight" => {
                Some(self.classes(1))
            }
            _ if key.starts_with("classes_adapter.shrink.") => Some(self.classes(0)),
            _ if key.starts_with("generator.") && key.contains(".head.") => Some(self.classes(0)),
            _ => None,
        }
    }

    /// What the training takes over, in lines for people.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (what, named) in [("classes", self.classes(0)), ("modalities", self.modalities())] {
            let [kept, added, gone] = named.compared();
            for (names, how) in [(added, "start anew"), (gone, "are not taken over")] {
                if !names.is_empty() {
                    lines.push(format!(
                        "{what} {} {how}, {} of the bundle kept",
                        names.join(", "),
                        kept.len()
                    ));
                }
            }
        }
        let [old, new] = [self.old, self.new].map(|config| config.network.image_size);
        if old != new {
            lines.push(format!("positions of slices resized from {old} to {new} pixels"));
        }
        for (name, has) in [
            ("finer_features", (|config| config.network.finer_features) as fn(&BundleConfig) -> bool),
            ("classes_adapter_prompts", |config| config.network.classes_adapter_prompts),
        ] {
            if has(self.new) && !has(self.old) {
                lines.push(format!("{name} starts without effect"));
            }
        }
        lines
    }
}

impl Fit for Start<'_> {
    fn fits(&self, key: &str, found: &[i64], own: &[i64]) -> bool {
        if found.len() != own.len() {
            return false;
        }
        if key == POSITIONS {
            return found[..2] == own[..2];
        }
        self.named(key).is_some_and(|named| {
            let others = |(axis, (found, own))| axis == named.axis || found == own;
            found[named.axis] == named.old.len() as i64 && found.iter().zip(own).enumerate().all(others)
        })
    }

    fn fitted(&self, key: &str, value: Tensor, own: &Tensor) -> Tensor {
        if key == POSITIONS {
            let size = &own.size()[2..];
            return match value.size()[2..] == *size {
                true => value,
                false => value.to_kind(Kind::Float).upsample_bilinear2d(size, false, None, None),
            };
        }
        let Some(named) = self.named(key).filter(|named| named.old != named.new) else { return value };
        let axis = named.axis as i64;
        // A new input has no effect; a new output has its initial values.
        let fitted = if named.axis == 1 { own.zeros_like() } else { own.copy() };
        for (index, place) in named.places().enumerate() {
            if let Some(place) = place {
                fitted.narrow(axis, index as i64, 1).copy_(&value.narrow(axis, place as i64, 1));
            }
        }
        fitted
    }
}
