//! The modules that the paper adds to SAM (section 3): adapters in every transformer block, depth position
//! embeddings, MAdapter (modalities to RGB) and MC-Adapter (binary masks to classes); and finer features for the mask
//! decoder, which the paper does not have.

mod classes;
mod depth_fused;
mod finer_features;
mod instance_norm;
mod modality;
mod placement;

pub use classes::{ClassesAdapter, resize_logits};
pub use depth_fused::{Adapter, AdapterConfig};
pub use finer_features::{FinerFeatures, FinerFeaturesConfig};
pub use modality::{ModalityAdapter, ModalityAdapterConfig, resize_to_rgb};
pub use placement::{add_after, add_beside};
