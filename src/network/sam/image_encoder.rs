//! ViT image encoder (`ImageEncoderViT` in `segment_anything/modeling/image_encoder.py`) with the paper's
//! adapters, depth position embedding and taps (sections 3.1 and 3.2).

use tch::Tensor;
use tch::nn::{self, Module};

use super::common::{dims, patch_conv};
use super::neck::Neck;
use super::position::PositionTable;
use super::vit_block::Block;
use super::{Encoded, VitConfig};

/// Image channels.
const CHANNELS: i64 = 3;

/// Patch embedding, positions, transformer blocks and a convolutional neck.
#[derive(Debug)]
pub struct ImageEncoderVit {
    patch_embed: nn::Conv2D,
    pos_embed: PositionTable,
    depth_pos_embed: Option<Tensor>,
    blocks: Vec<Block>,
    neck: Neck,
    grid: i64,
    taps: Vec<usize>,
}

impl ImageEncoderVit {
    /// Creates SAM's weights below `vs` and those of the paper's modules below `adapters`, which may belong to
    /// another store.
    pub fn new(vs: &nn::Path, adapters: &nn::Path, config: &VitConfig) -> Self {
        let VitConfig { patch_size, embed_dim, table_grid, .. } = *config;
        let table = vs.zeros("pos_embed", &[1, table_grid, table_grid, embed_dim]);
        let depth_table = || adapters.zeros("depth_pos_embed", &[1, config.adapter.depth, 1, 1, embed_dim]);
        let block =
            |index| Block::new(&(vs / "blocks" / index), &(adapters / "blocks" / index), config, index);
        Self {
            patch_embed: patch_conv(vs / "patch_embed" / "proj", CHANNELS, embed_dim, patch_size),
            pos_embed: PositionTable::new(table),
            depth_pos_embed: config.depth_position.then(depth_table),
            blocks: (0..config.blocks).map(block).collect(),
            neck: Neck::new(&(vs / "neck"), embed_dim, config.out_channels),
            grid: config.grid(),
            taps: config.taps.clone(),
        }
    }

    /// Normalised slices `[B·D, 3, S, S]` of B volumes, the slices of a volume adjacent, to their embedding and the
    /// tapped block inputs.
    pub fn forward(&self, image: &Tensor) -> Encoded {
        let image = image.to_kind(self.patch_embed.ws.kind());
        let patches = self.patch_embed.forward(&image).permute([0, 2, 3, 1]).contiguous();
        let mut x = self.add_depth_position(patches + self.pos_embed.absolute(self.grid)); // [B·D, h, w, C]
        let mut taps = Vec::with_capacity(self.taps.len() + 1);
        for (index, block) in self.blocks.iter().enumerate() {
            if self.taps.contains(&index) {
                taps.push(channels_first(&x));
            }
            x = block.forward(&x);
        }
        let embedding = self.neck.forward(&channels_first(&x));
        taps.push(embedding.shallow_clone());
        Encoded { embedding, taps, finer: 0 }
    }

    fn add_depth_position(&self, x: Tensor) -> Tensor {
        let Some(table) = &self.depth_pos_embed else { return x };
        let [_, height, width, channels] = dims(&x);
        let [_, depth, ..] = dims::<5>(table);
        (x.view([-1, depth, height, width, channels]) + table).view_as(&x)
    }
}

/// View of `[B, H, W, C]` as `[B, C, H, W]`.
fn channels_first(x: &Tensor) -> Tensor {
    x.permute([0, 3, 1, 2])
}
