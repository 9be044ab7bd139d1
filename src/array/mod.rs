//! Array operations used by several rooms: linear interpolation, antialiasing, distance transform, connected
//! components.

mod antialias;
mod components;
mod distance;
mod linear;

pub use antialias::{Blend, blend_plane, blends};
pub use components::{Run, connected_runs};
pub use distance::squared_distance;
pub use linear::{Rounding, Tap, is_copy, linear_taps, mix, nearest_taps, resample_plane, resample_row};
