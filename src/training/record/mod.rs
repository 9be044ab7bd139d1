//! Records of a run for its users: curves, TensorBoard events and a web page.

mod events;
mod history;
mod page;
mod watch;

pub use events::EventWriter;
pub use history::{History, Interval, Point};
pub use page::write_page;
pub use watch::Watch;
