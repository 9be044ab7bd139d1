//! Softmax of attention scores: over chunks of keys with a running maximum and sum (Milakov and Gimelshein
//! 2018), or over all keys at once, with its gradient.

use std::arch::x86_64::{
    __m512, __m512bh, __m512i, _mm512_add_ps, _mm512_cvtne2ps_pbh, _mm512_fmadd_ps, _mm512_fmsub_ps,
    _mm512_loadu_ps, _mm512_max_ps, _mm512_mul_ps, _mm512_reduce_add_ps, _mm512_reduce_max_ps,
    _mm512_roundscale_ps, _mm512_scalef_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
    _mm512_storeu_si512, _mm512_sub_ps,
};
use std::mem::transmute;

use super::tile::LANES;

/// The running state of one row of scores.
#[derive(Debug, Clone, Copy)]
pub(super) struct Running {
    /// Largest score so far.
    pub max: f32,
    /// Sum of the exponentials so far, relative to `max`.
    pub sum: f32,
}

impl Running {
    /// The state before the first chunk. `max` is finite so that a row without any key does not become NaN.
    pub const START: Self = Self { max: -1e30, sum: 0.0 };
}

/// Turns a row of scores (length a multiple of 32) into `exp(scale · (score − max))` in bf16 pairs, and
/// rescales `weighted`, the sum of weighted values so far, to the new maximum.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) fn exponentials(
    scores: &[f32],
    scale: f32,
    running: &mut Running,
    probabilities: &mut [u32],
    weighted: &mut [f32],
) {
    assert!(scores.len().is_multiple_of(2 * LANES) && probabilities.len() == scores.len() / 2);
    let mut largest = _mm512_set1_ps(running.max);
    for chunk in scores.as_chunks::<LANES>().0 {
        largest = _mm512_max_ps(largest, load(chunk));
    }
    let max = _mm512_reduce_max_ps(largest);
    // exp(x) = 2^(x · log2 e)
    let factor = _mm512_set1_ps(scale * std::f32::consts::LOG2_E);
    let shift = _mm512_mul_ps(_mm512_set1_ps(max), factor);
    let mut sum = _mm512_setzero_ps();
    for (pair, out) in
        scores.as_chunks::<{ 2 * LANES }>().0.iter().zip(probabilities.as_chunks_mut::<LANES>().0)
    {
        let [low, high] = [0, 1].map(|half| {
            // SAFETY: within the 32 values of `pair`.
            let score = unsafe { _mm512_loadu_ps(pair.as_ptr().add(half * LANES)) };
            exp2(_mm512_fmsub_ps(score, factor, shift))
        });
        sum = _mm512_add_ps(sum, _mm512_add_ps(low, high));
        // SAFETY: `out` has 16 u32.
        unsafe {
            let packed = transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
            _mm512_storeu_si512(out.as_mut_ptr().cast(), packed);
        }
    }
    let sum = _mm512_reduce_add_ps(sum);
    if running.sum == 0.0 {
        running.max = max;
    } else if max > running.max {
        let shrink = ((running.max - max) * scale).exp();
        running.sum *= shrink;
        weighted.iter_mut().for_each(|value| *value *= shrink);
        running.max = max;
    }
    running.sum += sum;
}

/// Replaces a row of scores (length a multiple of 16) by softmax(`scale` · scores).
#[target_feature(enable = "avx512f")]
pub(super) fn softmax(scores: &mut [f32], scale: f32) {
    let rows = scores.as_chunks_mut::<LANES>().0;
    let largest = rows
        .iter()
        .fold(_mm512_set1_ps(Running::START.max), |largest, row| _mm512_max_ps(largest, load(row)));
    let factor = _mm512_set1_ps(scale * std::f32::consts::LOG2_E);
    let shift = _mm512_mul_ps(_mm512_set1_ps(_mm512_reduce_max_ps(largest)), factor);
    let mut sum = _mm512_setzero_ps();
    for row in rows.iter_mut() {
        let value = exp2(_mm512_fmsub_ps(load(row), factor, shift));
        sum = _mm512_add_ps(sum, value);
        store(row, value);
    }
    let inverse = _mm512_set1_ps(_mm512_reduce_add_ps(sum).recip());
    rows.iter_mut().for_each(|row| store(row, _mm512_mul_ps(load(row), inverse)));
}

/// Replaces the gradients g w.r.t. a row of probabilities p by those w.r.t. the scores: `scale · p · (g − Σ
/// p·g)`.
#[target_feature(enable = "avx512f")]
pub(super) fn softmax_gradient(probabilities: &[f32], gradients: &mut [f32], scale: f32) {
    let probabilities = probabilities.as_chunks::<LANES>().0;
    let gradients = gradients.as_chunks_mut::<LANES>().0;
    let pairs = probabilities.iter().zip(gradients.iter());
    let sum = pairs.fold(_mm512_setzero_ps(), |sum, (p, g)| _mm512_fmadd_ps(load(p), load(g), sum));
    let mean = _mm512_set1_ps(_mm512_reduce_add_ps(sum));
    let scale = _mm512_set1_ps(scale);
    for (p, g) in probabilities.iter().zip(gradients) {
        let scaled = _mm512_mul_ps(load(p), scale);
        store(g, _mm512_mul_ps(scaled, _mm512_sub_ps(load(g), mean)));
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(values: &mut [f32; LANES], register: __m512) {
    // SAFETY: 16 values.
    unsafe { _mm512_storeu_ps(values.as_mut_ptr(), register) };
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(values: &[f32; LANES]) -> __m512 {
    // SAFETY: 16 values.
    unsafe { _mm512_loadu_ps(values.as_ptr()) }
}

/// 2^x for x ≤ 0, error below 3e-6: the whole part becomes the exponent, the fraction goes through the Taylor
/// series.
#[inline]
#[target_feature(enable = "avx512f")]
fn exp2(x: __m512) -> __m512 {
    const TO_NEAREST: i32 = 0;
    let whole = _mm512_roundscale_ps::<TO_NEAREST>(x);
    let fraction = _mm512_sub_ps(x, whole);
    let ln2 = std::f32::consts::LN_2;
    let mut series = _mm512_set1_ps(ln2.powi(5) / 120.0);
    for coefficient in [ln2.powi(4) / 24.0, ln2.powi(3) / 6.0, ln2.powi(2) / 2.0, ln2, 1.0] {
        series = _mm512_fmadd_ps(series, fraction, _mm512_set1_ps(coefficient));
    }
    _mm512_scalef_ps(series, whole)
}
