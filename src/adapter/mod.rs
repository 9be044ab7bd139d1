//! What the paper adds to SAM (section 3): adapters in every transformer block, depth position
//! embeddings, the adapter from modalities to RGB and the adapter from binary masks to classes.

mod depth_fused;

pub use depth_fused::{Adapter, AdapterConfig};
