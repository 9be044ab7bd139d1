//! Windows of the image encoder's local attention (`window_partition` and `window_unpartition` in
//! `segment_anything/modeling/image_encoder.py`).

use tch::Tensor;

use super::common::dims;

/// Divides `[B, H, W, C]` into windows `[B·n, window, window, C]`, padded with `outside` `[C]` at the right and the
/// bottom.
pub(super) fn partition(x: &Tensor, window: i64, outside: &Tensor) -> Tensor {
    let [batch, height, width, channels] = dims(x);
    let [rows, columns] = [height, width].map(|length| (length as u64).div_ceil(window as u64) as i64);
    let filled = |x: &Tensor, dim: usize, missing: i64| {
        let mut size = x.size();
        size[dim] = missing;
        if missing == 0 {
            x.shallow_clone()
        } else {
            Tensor::cat(&[x, &outside.expand(&size, false)], dim as i64)
        }
    };
    let wide = filled(x, 2, columns * window - width);
    filled(&wide, 1, rows * window - height)
        .view([batch, rows, window, columns, window, channels])
        .permute([0, 1, 3, 2, 4, 5])
        .reshape([-1, window, window, channels])
}

/// Undoes [`partition`]: `[B·n, window, window, C]` to contiguous `[B, height, width, C]`.
pub(super) fn unpartition(windows: &Tensor, [height, width]: [i64; 2]) -> Tensor {
    let [_, window, _, channels] = dims(windows);
    let [rows, columns] = [height, width].map(|length| (length as u64).div_ceil(window as u64) as i64);
    windows
        .view([-1, rows, columns, window, window, channels])
        .permute([0, 1, 3, 2, 4, 5])
        .reshape([-1, rows * window, columns * window, channels])
        .narrow(1, 0, height)
        .narrow(2, 0, width)
        .contiguous()
}

/// Neighbouring windows along an axis that have the same number of tokens within the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    /// First token.
    pub start: i64,
    /// Number of windows.
    pub windows: i64,
    /// Tokens per window that are within the image.
    pub tokens: i64,
}

impl Run {
    /// Number of tokens of all these windows.
    pub fn length(self) -> i64 {
        self.windows * self.tokens
    }
}

/// The whole windows along an axis of `length` tokens, and the cut one at its end, if any.
pub(super) fn runs(length: i64, window: i64) -> Vec<Run> {
    let whole = Run { start: 0, windows: length / window, tokens: window };
    let last = Run { start: whole.length(), windows: 1, tokens: length % window };
    [whole, last].into_iter().filter(|run| run.length() > 0).collect()
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    #[test]
    fn runs_cover_an_axis() {
        let of = |length| runs(length, 7).iter().map(|run| [run.start, run.windows, run.tokens]).collect();
        let expected: [(i64, Vec<[i64; 3]>); 3] =
            [(14, vec![[0, 2, 7]]), (16, vec![[0, 2, 7], [14, 1, 2]]), (4, vec![[0, 1, 4]])];
        for (length, expected) in expected {
            let found: Vec<[i64; 3]> = of(length);
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn unpartition_undoes_partition_of_uneven_grids() {
        let x = Tensor::randn([2, 7, 9, 3], (Kind::Float, Device::Cpu));
        let windows = partition(&x, 4, &Tensor::from_slice(&[1f32, 2.0, 3.0]));
        assert_eq!(windows.size(), [2 * 2 * 3, 4, 4, 3]);
        assert_eq!(Vec::<f32>::try_from(windows.get(2).get(0).get(3)).unwrap(), [1.0, 2.0, 3.0]);
        assert!(unpartition(&windows, [7, 9]).equal(&x));
    }
}
