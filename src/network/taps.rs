//! What the prompt generator needs to know of the image encoder's features.

/// Shape of one feature level, for one slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TapShape {
    /// C.
    pub channels: i64,
    /// Rows, h.
    pub height: i64,
    /// Columns, w.
    pub width: i64,
}
