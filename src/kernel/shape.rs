//! What an attention is told: sizes, the order of its inputs, positions.

use tch::Tensor;

/// How a token's queries, keys and values of all heads follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkvOrder {
    /// `[3, heads, c]`: all queries first (SAM's ViT).
    ByRole,
    /// `[heads, 3, c]`: all of a head first (TinyViT).
    ByHead,
}

/// What is added to the scores for where query and key lie.
#[derive(Debug, Clone, Copy)]
pub enum PositionBias<'a> {
    /// For each of [`Cut::ALL`] `[heads, n, k]` contiguous fp32: for each head, query and key of a window with n tokens within
    /// the image, the bias times √c, as it is added before the scores are scaled. Of a window that is cut, the last of
    /// k = n + 1 keys stands for all tokens beyond the border: they are alike, so that they are one whose bias is the
    /// logarithm of the sum of their biases' exponentials. Where the image has no such windows, the tensor is not looked at.
    Tables(&'a [Tensor; 4]),
    /// Decomposed relative positions of SAM: the query's product with a vector for the distance in rows and with one
    /// for the distance in columns. `[window_h, window_h, c]` and `[window_w, window_w, c]` bf16 by query and key.
    Decomposed {
        /// Along the rows.
        along_h: &'a Tensor,
        /// Along the columns.
        along_w: &'a Tensor,
    },
}

/// Over which borders of the image a window reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Over the lower one.
    pub bottom: bool,
    /// Over the right one.
    pub right: bool,
}

impl Cut {
    /// Each that there is.
    pub const ALL: [Self; 4] = [
        Self { bottom: false, right: false },
        Self { bottom: false, right: true },
        Self { bottom: true, right: false },
        Self { bottom: true, right: true },
    ];

    /// Its place in [`Cut::ALL`].
    pub(super) fn index(self) -> usize {
        2 * usize::from(self.bottom) + usize::from(self.right)
    }

    /// Whether any token of the window is beyond a border.
    pub fn is_cut(self) -> bool {
        self.bottom || self.right
    }
}

/// Sizes of an attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionShape {
    /// Images.
    pub batch: usize,
    /// `[height, width]` of an image, tokens.
    pub image: [usize; 2],
    /// `[height, width]` of a window, tokens; the image's size for global attention.
    pub window: [usize; 2],
    /// Heads.
    pub heads: usize,
    /// Channels of a head, c.
    pub head_channels: usize,
    /// Order within a token.
    pub order: QkvOrder,
}

impl AttentionShape {
    /// Of projected `[B, H, W, 3·C]`.
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

    /// Channels of a token.
    pub fn channels(&self) -> usize {
        self.heads * self.head_channels
    }

    /// Offsets of query, key and value of a head within a token, and the tokens' distance.
    pub(super) fn offsets(&self, head: usize) -> [usize; 3] {
        let (all, one) = (self.channels(), self.head_channels);
        match self.order {
            QkvOrder::ByRole => [0, 1, 2].map(|role| role * all + head * one),
            QkvOrder::ByHead => [0, 1, 2].map(|role| (3 * head + role) * one),
        }
    }

    /// `[rows, columns]` of tokens within the image that such a window has; `None` where the image has no such windows.
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
