//! The modules that the paper adds to SAM (section 3): adapters in every transformer block, depth position
//! embeddings, MAdapter (modalities to RGB) and MC-Adapter (binary masks to classes).

mod classes;
mod depth_fused;
mod instance_norm;
mod modality;
mod placement;

pub use classes::{ClassesAdapter, resize_logits};
pub use depth_fused::{Adapter, AdapterConfig};
pub use modality::{ModalityAdapter, ModalityAdapterConfig, resize_to_rgb};
pub use placement::{add_after, add_beside};
