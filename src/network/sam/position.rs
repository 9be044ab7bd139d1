//! Learned position tables of the image encoder, resized to the grid in use (`get_rel_pos` in
//! `segment_anything/modeling/image_encoder.py`).
//!
//! Official checkpoints hold tables for a 64 × 64 grid (1024-pixel input). They are kept at that size, so that such
//! files load directly, and are interpolated for other grids: relative tables linearly as upstream, the absolute
//! table bicubically as in SAM 2 and DINO (upstream has no rule for it). Both use `align_corners = false` and no
//! antialiasing.

use tch::{Kind, Tensor};

use crate::network::layers::Derived;

/// A position table, resized to the size in use.
#[derive(Debug)]
pub(super) struct PositionTable {
    parameter: Tensor,
    derived: Derived,
}

impl PositionTable {
    pub(super) fn new(parameter: Tensor) -> Self {
        Self { parameter, derived: Derived::default() }
    }

    /// The absolute table `[1, h0, w0, C]`, resized to `[1, grid, grid, C]`.
    pub(super) fn absolute(&self, grid: i64) -> Tensor {
        self.derive(grid, |table| {
            if table.size()[1] == grid {
                return table.shallow_clone();
            }
            table
                .permute([0, 3, 1, 2])
                .to_kind(Kind::Float)
                .upsample_bicubic2d([grid, grid], false, None, None)
                .to_kind(table.kind())
                .permute([0, 2, 3, 1])
                .contiguous()
        })
    }

    /// The relative table `[L, C]`, expanded to `[length, length, C]`: the embedding of the distance of each query
    /// to each key.
    pub(super) fn relative(&self, length: i64) -> Tensor {
        self.derive(length, |table| {
            let distances = 2 * length - 1;
            let resized = if table.size()[0] == distances {
                table.shallow_clone()
            } else {
                table
                    .transpose(0, 1)
                    .unsqueeze(0)
                    .to_kind(Kind::Float)
                    .upsample_linear1d([distances], false, None)
                    .to_kind(table.kind())
                    .squeeze_dim(0)
                    .transpose(0, 1)
            };
            let steps = Tensor::arange(length, (Kind::Int64, table.device()));
            let offset = steps.unsqueeze(1) - &steps + (length - 1);
            resized.index_select(0, &offset.flatten(0, 1)).view([length, length, -1])
        })
    }

    fn derive(&self, size: i64, compute: impl FnOnce(&Tensor) -> Tensor) -> Tensor {
        self.derived.of_size(size, &[&self.parameter], || compute(&self.parameter))
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    #[test]
    fn derived_table_follows_its_parameter() {
        let mut parameter = Tensor::zeros([1, 4, 4, 2], (Kind::Float, Device::Cpu));
        let table = PositionTable::new(parameter.shallow_clone());
        assert_eq!(table.absolute(2).sum(Kind::Float).double_value(&[]), 0.0);
        let _ = parameter.fill_(1.0);
        assert_eq!(table.absolute(2).sum(Kind::Float).double_value(&[]), 8.0);
    }

    #[test]
    fn every_size_has_a_table_of_its_own() {
        let relative = PositionTable::new(Tensor::randn([9, 2], (Kind::Float, Device::Cpu)));
        let absolute = PositionTable::new(Tensor::randn([1, 4, 4, 2], (Kind::Float, Device::Cpu)));
        for size in [3, 5, 3] {
            assert_eq!(relative.relative(size).size(), [size, size, 2]);
            assert_eq!(absolute.absolute(size).size(), [1, size, size, 2]);
        }
    }

    #[test]
    fn relative_table_is_indexed_by_query_minus_key() {
        let parameter = Tensor::arange(5, (Kind::Float, Device::Cpu)).unsqueeze(1);
        let table = PositionTable::new(parameter).relative(3);
        let expected = [2.0, 1.0, 0.0, 3.0, 2.0, 1.0, 4.0, 3.0, 2.0];
        assert_eq!(Vec::<f32>::try_from(table.flatten(0, 2)).unwrap(), expected);
    }
}
