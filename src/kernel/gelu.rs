//! Exact GELU, x · Φ(x) (Hendrycks and Gimpel 2016), of bf16 tensors, and its gradient. Φ is the distribution
//! function of the normal distribution, φ its density. Both results are as exact as bf16 can hold.
//!
//! With t = |x|: gelu(x) = max(x, 0) − t · Φ(−t). The derivative is r(t) for x < 0 and 1 − r(t) for x ≥ 0,
//! where r(t) = Φ(−t) − t · φ(t). Both functions of t are approximated by piecewise quadratics, whose
//! coefficients fit into registers.

use tch::Tensor;

/// Whether [`gelu`] can be used: the processor has AVX512-BF16, and the tensor is contiguous bf16 on the CPU.
pub fn has_gelu(x: &Tensor) -> bool {
    super::is_bf16_here(x) && x.is_contiguous()
}

/// GELU of `x`. If no gradient is needed, the result overwrites the memory of `x`, which must then have no
/// other user.
///
/// # Panics
/// If [`has_gelu`] is false.
pub fn gelu(x: Tensor) -> Tensor {
    assert!(has_gelu(&x));
    #[cfg(target_arch = "x86_64")]
    return vector::gelu(x);
    #[cfg(not(target_arch = "x86_64"))]
    unreachable!("not supported");
}

#[cfg(target_arch = "x86_64")]
mod vector {
    use std::arch::x86_64::{
        __m512, _CMP_GE_OQ, _mm512_abs_ps, _mm512_castps_si512, _mm512_cmp_ps_mask, _mm512_fmadd_ps,
        _mm512_fnmadd_ps, _mm512_loadu_ps, _mm512_mask_sub_ps, _mm512_max_ps, _mm512_min_ps, _mm512_mul_ps,
        _mm512_permutex2var_ps, _mm512_set1_ps, _mm512_setzero_ps,
    };
    use std::array;
    use std::f64::consts::PI;
    use std::sync::LazyLock;

    use tch::Tensor;

    use crate::kernel::tile::LANES;
    use crate::kernel::values::{for_each_chunk, load, store};
    use crate::tensor::{as_laid_out, mark_changed, with_backward};

    /// Number of pieces: as many as two registers hold.
    const PIECES: usize = 2 * LANES;
    /// Pieces per unit of t; the middle of piece i is t = i / 6. In the last piece (t > 5) both functions are
    /// below 1e-5 and taken as 0.
    const PER_UNIT: f32 = 6.0;
    /// Adding this to a small number leaves the rounded number in the lowest bits of the sum.
    const TO_WHOLE: f32 = 1.5 * (1 << 23) as f32;

    /// A piecewise quadratic function of t: the coefficients of 1, t and t² for each piece.
    type Pieces = [[f32; PIECES]; 3];

    /// Φ(−t).
    static TAIL: LazyLock<Pieces> = LazyLock::new(|| pieces(|t| (-t).special_ndtr()));
    /// r(t) = Φ(−t) − t · φ(t).
    static SLOPE: LazyLock<Pieces> =
        LazyLock::new(|| pieces(|t| (-t).special_ndtr() - t * (t.square() * -0.5).exp() / (2.0 * PI).sqrt()));

    /// For each piece, the parabola that interpolates `function` at three Chebyshev points.
    fn pieces(function: impl Fn(&Tensor) -> Tensor) -> Pieces {
        let mut coefficients = [[0.0; PIECES]; 3];
        for piece in 0..PIECES - 1 {
            // Only the right half of the first piece is used.
            let (middle, half) = if piece == 0 { (0.25, 0.25) } else { (piece as f64, 0.5) };
            let at =
                [1.0, 3.0, 5.0].map(|odd| (middle + half * (odd * PI / 6.0).cos()) / f64::from(PER_UNIT));
            let values = function(&Tensor::from_slice(&at));
            let [a, b, c] = [0, 1, 2].map(|index| values.double_value(&[index]));
            // Newton's divided differences.
            let (ab, bc) = ((b - a) / (at[1] - at[0]), (c - b) / (at[2] - at[1]));
            let abc = (bc - ab) / (at[2] - at[0]);
            let powers = [a - ab * at[0] + abc * at[0] * at[1], ab - abc * (at[0] + at[1]), abc];
            coefficients.iter_mut().zip(powers).for_each(|(all, power)| all[piece] = power as f32);
        }
        coefficients
    }

    pub(super) fn gelu(x: Tensor) -> Tensor {
        let input = x.detach();
        let table: &Pieces = &TAIL;
        if !x.requires_grad() {
            for_each_chunk([&input], &input, 1, |[x], out, count| {
                // SAFETY: `has_gelu` was checked, and the addresses are those of `count` values.
                unsafe { value(table, x, out, count) };
            });
            mark_changed(&x);
            return x;
        }
        let output = input.empty_like();
        for_each_chunk([&input], &output, 1, |[x], out, count| {
            // SAFETY: as above.
            unsafe { value(table, x, out, count) };
        });
        let version = x.internal_version();
        with_backward(&x, output, move |gradient| {
            assert_eq!(input.internal_version(), version, "GELU's input was changed in place");
            let table: &Pieces = &SLOPE;
            let gradient = as_laid_out(gradient, &input);
            let output = input.empty_like();
            for_each_chunk([&input, &gradient], &output, 1, |[x, gradient], out, count| {
                // SAFETY: as above.
                unsafe { slope(table, x, gradient, out, count) };
            });
            output
        })
    }

    /// GELU of `count` values.
    ///
    /// # Safety
    /// The processor has AVX512-BF16, and both addresses are valid for `count` values.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn value(table: &Pieces, x: *const u16, out: *mut u16, count: usize) {
        let table = Registers::new(table);
        let each = |x: __m512| {
            let t = magnitude(x);
            // This order of operands propagates NaN.
            _mm512_fnmadd_ps(t, table.at(t), _mm512_max_ps(_mm512_setzero_ps(), x))
        };
        for start in (0..count).step_by(LANES) {
            // SAFETY: the caller guarantees `count` values, and `left` of them remain.
            unsafe {
                let left = count - start;
                store(out.add(start), left, each(load(x.add(start), left)));
            }
        }
    }

    /// The gradients w.r.t. `count` inputs, given those w.r.t. their GELU.
    ///
    /// # Safety
    /// As for [`value`], for the three addresses.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn slope(table: &Pieces, x: *const u16, gradient: *const u16, out: *mut u16, count: usize) {
        let table = Registers::new(table);
        let one = _mm512_set1_ps(1.0);
        for start in (0..count).step_by(LANES) {
            // SAFETY: as above.
            unsafe {
                let left = count - start;
                let x = load(x.add(start), left);
                let below = table.at(magnitude(x));
                let is_above = _mm512_cmp_ps_mask::<_CMP_GE_OQ>(x, _mm512_setzero_ps());
                let slope = _mm512_mask_sub_ps(below, is_above, one, below);
                store(out.add(start), left, _mm512_mul_ps(slope, load(gradient.add(start), left)));
            }
        }
    }

    /// |x|, limited to the middle of the last piece. NaN stays NaN.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn magnitude(x: __m512) -> __m512 {
        _mm512_min_ps(_mm512_set1_ps((PIECES - 1) as f32 / PER_UNIT), _mm512_abs_ps(x))
    }

    struct Registers([[__m512; 2]; 3]);

    impl Registers {
        #[inline]
        #[target_feature(enable = "avx512f")]
        fn new(pieces: &Pieces) -> Self {
            let half = |values: &[f32; PIECES], start: usize| {
                let values: &[f32] = &values[start..][..LANES];
                // SAFETY: 16 values.
                unsafe { _mm512_loadu_ps(values.as_ptr()) }
            };
            Self(array::from_fn(|power| [half(&pieces[power], 0), half(&pieces[power], LANES)]))
        }

        /// The function's values at `t`.
        #[inline]
        #[target_feature(enable = "avx512f")]
        fn at(&self, t: __m512) -> __m512 {
            let piece =
                _mm512_castps_si512(_mm512_fmadd_ps(t, _mm512_set1_ps(PER_UNIT), _mm512_set1_ps(TO_WHOLE)));
            // The permutation uses only the lowest five bits of the index.
            let [constant, linear, square] =
                self.0.map(|[low, high]| _mm512_permutex2var_ps(low, piece, high));
            _mm512_fmadd_ps(_mm512_fmadd_ps(square, t, linear), t, constant)
        }
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::super::NO_AVX512_BF16;
    use super::*;
    use crate::skip::skipped;

    /// Every bf16 value, three times, so that several threads are used; the last values do not fill a register.
    fn all() -> Tensor {
        let bits: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        let all = Tensor::from_data_size(&bits, &[1 << 16], Kind::BFloat16);
        Tensor::cat(&[&all, &all, &all.narrow(0, 0, (1 << 16) - 7)], 0)
    }

    /// The values of `found` that differ from `expected` by more than rounding to bf16 plus `tolerance`.
    fn wrong(found: &Tensor, expected: &Tensor, tolerance: f64) -> Vec<f64> {
        let found = found.to_kind(Kind::Double);
        let difference = (&found - expected).abs();
        let allowed = expected.abs() * 2f64.powi(-8) + tolerance;
        let is_same = found.eq_tensor(expected).logical_or(&found.isnan().logical_and(&expected.isnan()));
        let is_wrong = difference.le_tensor(&allowed).logical_or(&is_same).logical_not();
        Vec::try_from(found.masked_select(&is_wrong)).unwrap()
    }

    #[test]
    fn gelu_and_its_gradient_equal_the_definition_for_every_bf16() {
        let x = all();
        if !has_gelu(&x) {
            skipped(NO_AVX512_BF16);
            return;
        }
        let exact = x.to_kind(Kind::Double).set_requires_grad(true);
        let expected = exact.gelu("none");
        let x = x.set_requires_grad(true);
        let found = gelu(x.shallow_clone());
        let in_place = gelu(x.detach().copy());
        assert_eq!(found.view_dtype(Kind::Int16), in_place.view_dtype(Kind::Int16));
        // At −∞ libtorch computes 0 · ∞; the limit is 0.
        let limit = expected.where_self(&exact.ne(f64::NEG_INFINITY), &Tensor::from(0.0));
        assert_eq!(wrong(&found.detach(), &limit.detach(), 1e-5), [0.0; 0]);

        let finite = exact.detach().isfinite();
        (found.masked_select(&finite) * 3.0).sum(Kind::BFloat16).backward();
        (expected.masked_select(&finite) * 3.0).sum(Kind::Double).backward();
        let slopes = [x.grad(), exact.grad()].map(|slope| slope.masked_select(&finite));
        assert_eq!(wrong(&slopes[0], &slopes[1], 1e-4), [0.0; 0]);
    }

    #[test]
    fn other_types_and_layouts_are_not_taken() {
        let x = Tensor::zeros([2, 3, 4], (Kind::BFloat16, Device::Cpu));
        assert!(!has_gelu(&x.to_kind(Kind::Float)));
        assert!(!has_gelu(&x.transpose(0, 1)));
    }
}
