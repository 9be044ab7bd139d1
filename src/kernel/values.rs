//! The values of contiguous bf16 tensors: read and written 16 at a time, shared out among the threads.

use std::arch::x86_64::{
    __m256bh, __m256i, __m512, _mm256_loadu_si256, _mm256_mask_storeu_epi16, _mm256_maskz_loadu_epi16,
    _mm256_storeu_si256, _mm512_castsi512_ps, _mm512_cvtepu16_epi32, _mm512_cvtneps_pbh, _mm512_loadu_ps,
    _mm512_mul_ps, _mm512_set1_ps, _mm512_slli_epi32,
};
use std::array;
use std::marker::PhantomData;
use std::mem::transmute;

use tch::{Kind, Tensor};

use super::parallel;
use super::tile::LANES;

/// Values that a thread takes at a time, about.
const VALUES: usize = 1 << 15;

/// The values of a contiguous bf16 tensor, as bits.
pub(super) fn bf16(tensor: &Tensor) -> &[u16] {
    assert!(tensor.is_contiguous() && tensor.kind() == Kind::BFloat16);
    // SAFETY: a contiguous bf16 tensor on the CPU has so many 2-byte values, and lives as long as the borrow.
    unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast::<u16>(), tensor.numel()) }
}

/// Where the heads write, each to channels of its own.
pub(super) struct Output<'a> {
    start: *mut u16,
    values: usize,
    tensor: PhantomData<&'a Tensor>,
}

// SAFETY: `Output::write` asks its callers that no two threads write to the same place.
unsafe impl Sync for Output<'_> {}

impl<'a> Output<'a> {
    pub fn new(tensor: &'a Tensor) -> Self {
        assert!(tensor.is_contiguous() && tensor.kind() == Kind::BFloat16);
        Self { start: tensor.data_ptr().cast(), values: tensor.numel(), tensor: PhantomData }
    }

    /// Rounds `values`, a multiple of 16 of them, times `factor` to the places from `start`.
    ///
    /// # Safety
    /// The processor has AVX512-BF16, and no other thread writes to these places.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    pub unsafe fn write(&self, start: usize, values: &[f32], factor: f32) {
        assert!(start + values.len() <= self.values && values.len().is_multiple_of(LANES));
        let factor = _mm512_set1_ps(factor);
        for (index, values) in values.as_chunks::<LANES>().0.iter().enumerate() {
            // SAFETY: within the output by the assertion; nobody else's by the caller's promise.
            unsafe {
                let scaled = _mm512_mul_ps(_mm512_loadu_ps(values.as_ptr()), factor);
                store(self.start.add(start + index * LANES), LANES, scaled);
            }
        }
    }
}

pub(super) fn pack(low: u16, high: u16) -> u32 {
    u32::from(low) | u32::from(high) << 16
}

/// Where a tensor's values are.
struct Address(*mut u16);

// SAFETY: a plain address; no two threads get the same part.
unsafe impl Sync for Address {}

/// Calls `work` in parallel with the addresses of parts of `inputs` and of `output`, and how many values these have: a
/// multiple of `unit`.
///
/// # Panics
/// Where the tensors are no contiguous bf16 of one size, or this is no multiple of `unit`.
pub(super) fn for_each_chunk<const N: usize>(
    inputs: [&Tensor; N],
    output: &Tensor,
    unit: usize,
    work: impl Fn([*const u16; N], *mut u16, usize) + Sync,
) {
    let count = output.numel();
    let address = |tensor: &Tensor| {
        assert!(tensor.is_contiguous() && tensor.kind() == Kind::BFloat16 && tensor.numel() == count);
        Address(tensor.data_ptr().cast())
    };
    let (inputs, target) = (inputs.map(address), address(output));
    assert!(count.is_multiple_of(unit));
    let length = VALUES.next_multiple_of(unit);
    let chunk = |index: usize| {
        let start = index * length;
        // SAFETY: `start` is below the number of values of each.
        let part = |address: &Address| unsafe { address.0.add(start) };
        work(array::from_fn(|n| part(&inputs[n]).cast_const()), part(&target), length.min(count - start));
    };
    match count.div_ceil(length) {
        0 => {}
        1 => chunk(0),
        chunks => parallel::for_each(chunks, || (), |(), index| chunk(index)),
    }
}

/// Up to 16 values.
///
/// # Safety
/// The processor has AVX512-BF16, and there are `left` values, or 16.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) unsafe fn load(values: *const u16, left: usize) -> __m512 {
    // SAFETY: the caller's.
    let bits = unsafe {
        if left >= LANES {
            _mm256_loadu_si256(values.cast())
        } else {
            _mm256_maskz_loadu_epi16((1 << left) - 1, values.cast())
        }
    };
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits)))
}

/// Up to 16 values, rounded.
///
/// # Safety
/// As [`load`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn store(out: *mut u16, left: usize, values: __m512) {
    // SAFETY: the caller's; both types are 16 times 16 bits.
    unsafe {
        let bits = transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(values));
        if left >= LANES {
            _mm256_storeu_si256(out.cast(), bits);
        } else {
            _mm256_mask_storeu_epi16(out.cast(), (1 << left) - 1, bits);
        }
    }
}
