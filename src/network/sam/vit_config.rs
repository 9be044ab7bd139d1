//! Sizes of the ViT image encoder (`segment_anything/build_sam.py`) and the blocks that feed the prompt
//! generator (paper Equation 1).

use crate::bundle::AdapterKind;
use crate::network::adapter::AdapterConfig;

/// Grid side of the position tables in official checkpoints.
const OFFICIAL_GRID: i64 = 64;

/// Sizes of an [`ImageEncoderVit`](super::ImageEncoderVit). The constructors give plain SAM; `adapter`,
/// `depth_position` and `taps` switch the paper's modules on.
#[derive(Debug, Clone, PartialEq)]
pub struct VitConfig {
    /// Side of the square input, pixels.
    pub image_size: i64,
    /// Side of a patch, pixels. 16 in SAM.
    pub patch_size: i64,
    /// Channels of the tokens, C.
    pub embed_dim: i64,
    /// Number of transformer blocks.
    pub blocks: usize,
    /// Attention heads.
    pub heads: i64,
    /// Width of the MLP as a multiple of C. Default 4.
    pub mlp_ratio: i64,
    /// Channels of the neck's output. Default 256.
    pub out_channels: i64,
    /// Side of the attention windows, tokens. 14 in SAM.
    pub window_size: i64,
    /// Blocks with global attention; all others attend within windows.
    pub global_blocks: Vec<usize>,
    /// Grid side for which the position tables are stored; for another `image_size` they are interpolated. 64 in
    /// SAM.
    pub table_grid: i64,
    /// Adapters in every block. Default none.
    pub adapter: AdapterConfig,
    /// Whether a learned embedding of the slice's position in the window is added (DPosEmbed). Default false.
    pub depth_position: bool,
    /// Blocks whose inputs are returned, ascending. Default none: only the neck's output.
    pub taps: Vec<usize>,
}

impl VitConfig {
    /// SAM ViT-B for an input of `image_size` × `image_size` pixels.
    pub fn vit_b(image_size: i64) -> Self {
        Self::official(image_size, 768, 12, 12)
    }

    /// SAM ViT-L.
    pub fn vit_l(image_size: i64) -> Self {
        Self::official(image_size, 1024, 24, 16)
    }

    /// SAM ViT-H.
    pub fn vit_h(image_size: i64) -> Self {
        Self::official(image_size, 1280, 32, 16)
    }

    /// Six blocks of 160 channels, two of them global, for tests and training from scratch. Patches have 4 pixels at
    /// every input size, so the grid is a quarter of it (16, 32 or 64 for 64, 128 or 256), which windows of 8
    /// divide. The position tables are stored at that size, because no checkpoint has another.
    pub fn vit_tiny(image_size: i64) -> Self {
        let patch_size = 4;
        Self {
            patch_size,
            window_size: 8,
            global_blocks: vec![2, 5],
            table_grid: image_size / patch_size,
            ..Self::official(image_size, 160, 6, 5)
        }
    }

    fn official(image_size: i64, embed_dim: i64, blocks: usize, heads: i64) -> Self {
        Self {
            image_size,
            patch_size: 16,
            embed_dim,
            blocks,
            heads,
            mlp_ratio: 4,
            out_channels: 256,
            window_size: 14,
            global_blocks: (1..=4).map(|quarter| quarter * blocks / 4 - 1).collect(),
            table_grid: OFFICIAL_GRID,
            adapter: AdapterConfig::new(AdapterKind::None, 1),
            depth_position: false,
            taps: Vec::new(),
        }
    }

    /// Side of the embedding grid, h = w.
    pub fn grid(&self) -> i64 {
        self.image_size / self.patch_size
    }
}

/// Blocks whose inputs feed the prompt generator: 0, n, 2n, … with n = blocks · grid / patch_height, rounded and at
/// least 1 (paper Equation 1; ViT-B with patches 256 pixels high has n = 3). `grid` is the side of the embedding,
/// `patch_height` that of the volume's windows.
pub fn default_taps(blocks: usize, grid: usize, patch_height: usize) -> Vec<usize> {
    let every = ((2 * blocks * grid + patch_height) / (2 * patch_height).max(1)).max(1);
    (0..blocks).step_by(every).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taps_follow_the_papers_equation() {
        assert_eq!(default_taps(12, 64, 256), [0, 3, 6, 9]);
        assert_eq!(default_taps(24, 64, 256), [0, 6, 12, 18]);
        assert_eq!(default_taps(12, 64, 64), [0]);
        assert_eq!(default_taps(12, 64, 32), [0]);
        assert_eq!(default_taps(6, 16, 64), [0, 2, 4]);
        assert_eq!(default_taps(12, 16, 1024).len(), 12);
    }

    #[test]
    fn global_blocks_are_the_official_ones() {
        assert_eq!(VitConfig::vit_b(1024).global_blocks, [2, 5, 8, 11]);
        assert_eq!(VitConfig::vit_l(1024).global_blocks, [5, 11, 17, 23]);
        assert_eq!(VitConfig::vit_h(1024).global_blocks, [7, 15, 23, 31]);
    }
}
