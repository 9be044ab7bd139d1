//! The parameters of an attention: sizes, memory order of query, key and value, and position bias.

use tch::Tensor;

/// Order of queries, keys and values of all heads within a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkvOrder {
    /// `[3, heads, c]`: the queries of all heads first (SAM's ViT).
    ByRole,
    /// `[heads, 3, c]`: query, key and value of each head together (TinyViT).
    ByHead,
}

/// The bias added to the scores for the relative position of query and key.
#[derive(Debug, Clone, Copy)]
pub enum PositionBias<'a> {
    /// One table `[heads, n, k]` (contiguous fp32) for each of [`Cut::ALL`]: the bias times √c, because it is
    /// added before the scores are scaled. n is the number of window tokens within the image. In a cut window k
    /// = n + 1: the last key stands for all padding tokens. Their keys and values are equal, so one key
    /// suffices, whose bias is the logarithm of the sum of the exponentials of theirs. Tables for cuts that do
    /// not occur are not read.
    Tables(&'a [Tensor; 4]),
    /// SAM's decomposed relative positions: the query's product with one vector for the row distance plus its
    /// product with one for the column distance. Tables by query and key, `[window_h, window_h, c]` and
    /// `[window_w, window_w, c]` (bf16).
    Decomposed {
        /// Along the rows.
        along_h: &'a Tensor,
        /// Along the columns.
        along_w: &'a Tensor,
    },
}

/// The image borders that a window extends beyond.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// The lower border.
    pub bottom: bool,
    /// The right border.
    pub right: bool,
}

impl Cut {
    /// All four combinations.
    pub const ALL: [Self; 4] = [
        Self { bottom: false, right: false },
        Self { bottom: false, right: true },
        Self { bottom: true, right: false },
        Self { bottom: true, right: true },
    ];

    /// Index in [`Cut::ALL`].
    pub(super) fn index(self) -> usize {
        2 * usize::from(self.bottom) + usize::from(self.right)
    }

    /// Whether the window has padding tokens.
    pub fn is_cut(self) -> bool {
        self.bottom || self.right
    }
}

/// The sizes of an attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionShape {
    /// Number of images.
    pub batch: usize,
    /// `[height, width]` of an image, tokens.
    pub image: [usize; 2],
    /// `[height, width]` of a window, tokens; the image's size for global attention.
    pub window: [usize; 2],
    /// Number of heads.
    pub heads: usize,
    /// Channels per head, c.
    pub head_channels: usize,
    /// Order of query, key and value within a token.
    pub order: QkvOrder,
}

impl AttentionShape {
    /// The shape for `qkv` `[B, H, W, 3·C]`.
    pub fn new(qkv: &Tensor, window: [i64; 2], heads: i64, order: QkvOrder) -> Self {
        let size: Vec<usize> = qkv.size().iter().map(|&size| size as usize).collect();
        Self {
            batch: size[0],
            image: [size[1], size[2]],
            window: window.map(|side| side as usize),
            heads: heads as usize,
            head_channels: size[3] / 3 / heads as usize,
            order,
        }
    }

    /// Channels per token, C.
    pub fn channels(&self) -> usize {
        self.heads * self.head_channels
    }

    /// Offsets of a head's query, key and value within a token.
    pub(super) fn offsets(&self, head: usize) -> [usize; 3] {
        let (all, one) = (self.channels(), self.head_channels);
        match self.order {
            QkvOrder::ByRole => [0, 1, 2].map(|role| role * all + head * one),
            QkvOrder::ByHead => [0, 1, 2].map(|role| (3 * head + role) * one),
        }
    }

    /// `[rows, columns]` of a window with this cut that lie within the image; `None` if the image has no such
    /// window.
    pub fn inside(&self, cut: Cut) -> Option<[usize; 2]> {
        let along = |axis: usize, is_cut: bool| {
            let (image, window): (usize, usize) = (self.image[axis], self.window[axis]);
            let tokens = if is_cut { image % window } else { window };
            (0 < tokens && tokens <= image).then_some(tokens)
        };
        Some([along(0, cut.bottom)?, along(1, cut.right)?])
    }

    pub(super) fn windows(&self) -> [usize; 2] {
        [0, 1].map(|axis| self.image[axis].div_ceil(self.window[axis]))
    }
}
