//! Layer normalisation (Ba et al. 2016) of bf16 tensors with frozen scale and shift, and its gradient.

use tch::Tensor;

use crate::tensor::passes_gradient;

/// Whether [`layer_norm`] can be used: the processor has AVX512-BF16, all tensors are contiguous bf16 on the
/// CPU, scale and shift need no gradient, and the number of channels is a multiple of 16.
pub fn has_layer_norm(x: &Tensor, [scale, shift]: [&Tensor; 2]) -> bool {
    let is_here = |tensor: &Tensor| super::is_bf16_here(tensor) && tensor.is_contiguous();
    let channels = scale.numel();
    is_here(x)
        && [scale, shift]
            .iter()
            .all(|tensor| is_here(tensor) && !passes_gradient(tensor) && tensor.numel() == channels)
        && channels > 0
        && channels.is_multiple_of(16)
        && x.size().last() == Some(&(channels as i64))
}

/// Normalises `x` `[…, C]` to mean 0 and variance 1 over C, then multiplies by `scale` `[C]` and adds `shift`
/// `[C]`.
///
/// # Panics
/// If [`has_layer_norm`] is false.
pub fn layer_norm(x: &Tensor, [scale, shift]: [&Tensor; 2], eps: f64) -> Tensor {
    assert!(has_layer_norm(x, [scale, shift]));
    #[cfg(target_arch = "x86_64")]
    return vector::layer_norm(x, scale, shift, eps as f32);
    #[cfg(not(target_arch = "x86_64"))]
    unreachable!("not supported");
}

#[cfg(target_arch = "x86_64")]
mod vector {
    use std::arch::x86_64::{
        __m512, _mm512_add_ps, _mm512_fmadd_ps, _mm512_fnmadd_ps, _mm512_mul_ps, _mm512_reduce_add_ps,
        _mm512_set1_ps, _mm512_setzero_ps, _mm512_sub_ps,
    };

    use tch::Tensor;

    use crate::kernel::tile::LANES;
    use crate::kernel::values::{bf16, for_each_chunk, load, store};
    use crate::tensor::{as_laid_out, with_backward};

    pub(super) fn layer_norm(x: &Tensor, scale: &Tensor, shift: &Tensor, eps: f32) -> Tensor {
        let input = x.detach();
        let scale = scale.detach();
        let output = input.empty_like();
        let (of_scale, of_shift) = (bf16(&scale), bf16(shift));
        for_each_chunk([&input], &output, of_scale.len(), |[x], out, count| {
            // SAFETY: `has_layer_norm` was checked, and the addresses are those of `count` values.
            unsafe { normalise([x, out], count, [of_scale, of_shift], eps) };
        });
        let version = x.internal_version();
        with_backward(x, output, move |gradient| {
            assert_eq!(input.internal_version(), version, "layer normalisation's input was changed in place");
            let gradient = as_laid_out(gradient, &input);
            let output = input.empty_like();
            let scale = bf16(&scale);
            for_each_chunk([&input, &gradient], &output, scale.len(), |[x, gradient], out, count| {
                // SAFETY: as above.
                unsafe { backward([x, gradient, out], count, scale, eps) };
            });
            output
        })
    }

    /// Mean and 1 / standard deviation of `channels` values.
    ///
    /// # Safety
    /// The processor has AVX512-BF16, `x` is valid for `channels` values, and `channels` is a multiple of 16.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn moments(x: *const u16, channels: usize, eps: f32) -> [__m512; 2] {
        let share = (channels as f32).recip();
        let (mut sum, mut squares) = (_mm512_setzero_ps(), _mm512_setzero_ps());
        for channel in (0..channels).step_by(LANES) {
            // SAFETY: guaranteed by the caller.
            sum = _mm512_add_ps(sum, unsafe { load(x.add(channel), LANES) });
        }
        let mean = _mm512_set1_ps(_mm512_reduce_add_ps(sum) * share);
        for channel in (0..channels).step_by(LANES) {
            // SAFETY: guaranteed by the caller.
            let centred = _mm512_sub_ps(unsafe { load(x.add(channel), LANES) }, mean);
            squares = _mm512_fmadd_ps(centred, centred, squares);
        }
        let variance = _mm512_reduce_add_ps(squares) * share;
        [mean, _mm512_set1_ps((variance + eps).sqrt().recip())]
    }

    /// Normalises `count` values in groups of `scale.len()` channels.
    ///
    /// # Safety
    /// As for [`moments`], for each group at both addresses.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn normalise([x, out]: [*const u16; 2], count: usize, [scale, shift]: [&[u16]; 2], eps: f32) {
        let channels = scale.len();
        for start in (0..count).step_by(channels) {
            // SAFETY: guaranteed by the caller.
            unsafe {
                let (x, out) = (x.add(start), out.add(start).cast_mut());
                let [mean, factor] = moments(x, channels, eps);
                for channel in (0..channels).step_by(LANES) {
                    let [scale, shift] = [scale, shift].map(|all| load(all.as_ptr().add(channel), LANES));
                    let normed = _mm512_mul_ps(_mm512_sub_ps(load(x.add(channel), LANES), mean), factor);
                    store(out.add(channel), LANES, _mm512_fmadd_ps(normed, scale, shift));
                }
            }
        }
    }

    /// The gradients w.r.t. x, given the gradients g w.r.t. the result: (s·g − mean(s·g) − x̂ · mean(s·g·x̂)) /
    /// σ, with scale s and normalised x̂.
    ///
    /// # Safety
    /// As for [`moments`], for each group at the three addresses.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn backward([x, gradient, out]: [*const u16; 3], count: usize, scale: &[u16], eps: f32) {
        let channels = scale.len();
        let share = (channels as f32).recip();
        for start in (0..count).step_by(channels) {
            // SAFETY: guaranteed by the caller.
            unsafe {
                let (x, gradient, out) = (x.add(start), gradient.add(start), out.add(start).cast_mut());
                let [mean, factor] = moments(x, channels, eps);
                let at = |channel: usize| {
                    let scale = load(scale.as_ptr().add(channel), LANES);
                    let normed = _mm512_mul_ps(_mm512_sub_ps(load(x.add(channel), LANES), mean), factor);
                    [normed, _mm512_mul_ps(load(gradient.add(channel), LANES), scale)]
                };
                let (mut sum, mut along) = (_mm512_setzero_ps(), _mm512_setzero_ps());
                for channel in (0..channels).step_by(LANES) {
                    let [normed, scaled] = at(channel);
                    sum = _mm512_add_ps(sum, scaled);
                    along = _mm512_fmadd_ps(scaled, normed, along);
                }
                let [sum, along] = [sum, along].map(|all| _mm512_set1_ps(_mm512_reduce_add_ps(all) * share));
                for channel in (0..channels).step_by(LANES) {
                    let [normed, scaled] = at(channel);
                    let rest = _mm512_fnmadd_ps(normed, along, _mm512_sub_ps(scaled, sum));
                    store(out.add(channel), LANES, _mm512_mul_ps(rest, factor));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::super::NO_AVX512_BF16;
    use super::*;
    use crate::skip::skipped;

    const EPS: f64 = 1e-5;

    fn random(size: &[i64]) -> Tensor {
        Tensor::randn(size, (Kind::Float, Device::Cpu)).to_kind(Kind::BFloat16)
    }

    fn check(found: &Tensor, expected: &Tensor, what: &str) {
        let error = (found.to_kind(Kind::Double) - expected).abs().max() / expected.abs().max();
        assert!(error.double_value(&[]) < 4e-3, "{what}: {error}");
    }

    #[test]
    fn normalised_values_and_their_gradients_equal_the_definition() {
        tch::manual_seed(3);
        for (size, offset) in [([3, 1000, 160], 0.0), ([1, 7, 16], 5.0), ([2, 90, 1280], -1.0)] {
            let channels = size[2];
            // The offset tests means other than 0.
            let x = random(&size) * 0.5 + offset;
            let [scale, shift] = [random(&[channels]), random(&[channels])];
            if !has_layer_norm(&x, [&scale, &shift]) {
                skipped(NO_AVX512_BF16);
                return;
            }
            let double = |tensor: &Tensor| tensor.to_kind(Kind::Double);
            let exact = double(&x).set_requires_grad(true);
            let expected =
                exact.layer_norm([channels], Some(&double(&scale)), Some(&double(&shift)), EPS, false);
            let x = x.set_requires_grad(true);
            let found = layer_norm(&x, [&scale, &shift], EPS);
            check(&found.detach(), &expected.detach(), &format!("{size:?}"));
            let weights = double(&random(&[size[1], size[0], channels]));
            for output in [&found, &expected] {
                (double(output).transpose(0, 1) * &weights).sum(Kind::Double).backward();
            }
            check(&x.grad(), &exact.grad(), &format!("gradients, {size:?}"));
        }
    }

    #[test]
    fn what_is_trained_or_of_another_type_is_libtorchs() {
        let (x, scale) = (random(&[4, 32]), random(&[32]));
        if !super::super::is_bf16_here(&x) {
            skipped(NO_AVX512_BF16);
            return;
        }
        assert!(has_layer_norm(&x, [&scale, &scale]));
        assert!(!has_layer_norm(&x, [&scale, &scale.copy().set_requires_grad(true)]));
        assert!(!has_layer_norm(&x.to_kind(Kind::Float), [&scale, &scale]));
        assert!(!has_layer_norm(&x.transpose(0, 1), [&scale, &scale]));
        assert!(!has_layer_norm(
            &x.narrow(1, 0, 24).contiguous(),
            [&scale.narrow(0, 0, 24), &scale.narrow(0, 0, 24)]
        ));
    }
}
