//! Live segmentation in a browser: series with their newest images and masks, within limits of memory, for any number of
//! pages, none of which can slow the node down.
//!
//! ```text
//! frames, series, masks → Store → Queue of each page (4 slices, the oldest dropped) → WebSocket
//! ```

mod access;
mod connections;
mod hub;
mod latency;
mod overlay;
mod picture;
mod series;
mod server;
mod slice;
mod store;
mod viewers;
mod window;

pub use access::Access;
pub use hub::Hub;
pub use latency::{LatencySummary, Percentiles};
pub use overlay::{Overlays, RgbPicture};
pub use series::{Phase, SeriesSummary, SliceSummary};
pub use server::{answer, url};
pub use slice::{MaskState, Slice};
pub use store::{Store, StoreError};
pub use viewers::{Entry, Pushed, QUEUE, Queue, Viewers};
