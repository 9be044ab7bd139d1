//! Work on the values of contiguous bf16 tensors, 16 at a time, shared out among the threads.

use std::arch::x86_64::{
    __m256bh, __m256i, __m512, _mm256_loadu_si256, _mm256_mask_storeu_epi16, _mm256_maskz_loadu_epi16,
    _mm256_storeu_si256, _mm512_castsi512_ps, _mm512_cvtepu16_epi32, _mm512_cvtneps_pbh, _mm512_slli_epi32,
};
use std::array;
use std::mem::transmute;

use tch::{Kind, Tensor};

use super::parallel;
use super::tile::LANES;

/// Values that a thread takes at a time, about.
const VALUES: usize = 1 << 15;

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
