//! The part of the library that needs no libtorch, as a crate of its own for programs that face the network
//! (docs/decisions/0015). Its files are those of the library.

pub mod bundle {
    //! What of the bundle needs no libtorch.

    #[cfg_attr(not(test), expect(dead_code, reason = "only bundles are checked"))]
    mod codes;
    mod limits;

    pub(crate) use codes::plain_text;
    pub use codes::{ClassCodes, Code};
    pub use limits::{MAX_DEPTH, MAX_MESSAGE_BYTES, MAX_WINDOW_BYTES};
}
pub mod dicom;
pub mod files;
pub mod message {
    //! What of the messages needs no libtorch.

    mod error;
    mod header;
    pub mod live;
    mod text;

    pub use error::MessageError;
    pub use header::{NodeTimes, SliceHeader, keys};
    pub use text::{encode_text, from_json, text, to_json};
}
pub mod report {
    //! What of the reports needs no libtorch.

    mod palette;

    pub use palette::class_colour;
}
pub mod runtime {
    //! What of the nodes' event loops needs no libtorch.

    mod events;
    mod join;
    mod notice;
    mod said;
    mod setting_text;
    mod shared_memory;
    pub mod source;
    mod startup;
    mod variables;
    pub mod view;

    pub use join::Leave;
    pub use notice::{NOTICES_VARIABLE, Notice, Progress, tell};
    pub use setting_text::{decode_setting, encode_setting};
    pub use shared_memory::{Room, SharedMemory};
    pub use startup::{Failures, exit_code, forget_package, reason, small_node_main, transport_overlay};
    pub use variables::{number, value, variable};
}
pub mod scanner;
pub mod versions {
    //! This project's version.

    /// This project.
    pub const SELF_PROMPT_SAM: &str = env!("CARGO_PKG_VERSION");
}
pub mod view;
