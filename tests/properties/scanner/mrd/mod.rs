//! MRD: its formats, and the server with real connections within one process.

mod client;
mod format;
mod geometry;
mod hostile;
mod server;
