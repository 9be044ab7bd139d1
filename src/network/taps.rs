//! What the prompt generator must know of the features that an image encoder gives.

/// Shape of one level of features, without the slices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TapShape {
    /// C.
    pub channels: i64,
    /// Rows, h.
    pub height: i64,
    /// Columns, w.
    pub width: i64,
}
