//! Access to the values of contiguous bf16 tensors, 16 at a time and in parallel.

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

/// Approximate number of values that a thread takes at a time.
const VALUES: usize = 1 << 15;

/// The bits of a contiguous bf16 tensor's values.
pub(super) fn bf16(tensor: &Tensor) -> &[u16] {
    assert!(tensor.is_contiguous() && tensor.kind() == Kind::BFloat16);
    // SAFETY: a contiguous bf16 tensor on the CPU holds `numel` 2-byte values and lives as long as the borrow.
    unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast::<u16>(), tensor.numel()) }
}

/// The tensor into which all heads write, each to its own channels.
pub(super) struct Output<'a> {
    start: *mut u16,
    values: usize,
    tensor: PhantomData<&'a Tensor>,
}

// SAFETY: callers of `Output::write` guarantee that no two threads write to the same place.
unsafe impl Sync for Output<'_> {}

impl<'a> Output<'a> {
    pub fn new(tensor: &'a Tensor) -> Self {
        assert!(tensor.is_contiguous() && tensor.kind() == Kind::BFloat16);
        Self { start: tensor.data_ptr().cast(), values: tensor.numel(), tensor: PhantomData }
    }

    /// Writes `factor` times `values` (length a multiple of 16), rounded to bf16, from index `start` on.
    ///
    /// # Safety
    /// The processor has AVX512-BF16, and no other thread writes to these places.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    pub unsafe fn write(&self, start: usize, values: &[f32], factor: f32) {
        assert!(start + values.len() <= self.values && values.len().is_multiple_of(LANES));
        let factor = _mm512_set1_ps(factor);
        for (index, values) in values.as_chunks::<LANES>().0.iter().enumerate() {
            // SAFETY: the assertion keeps the address within the output; the caller guarantees exclusive
            // access.
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

/// Address of a tensor's values.
struct Address(*mut u16);

// SAFETY: this is a plain address, and no two threads get the same part.
unsafe impl Sync for Address {}

/// Calls `work` in parallel for chunks: the addresses of a chunk of each input and of `output`, and its number
/// of values, a multiple of `unit`.
///
/// # Panics
/// If the tensors are not contiguous bf16 of one size, or the size is not a multiple of `unit`.
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
        // SAFETY: `start` is below the number of values of each tensor.
        let part = |address: &Address| unsafe { address.0.add(start) };
        work(array::from_fn(|n| part(&inputs[n]).cast_const()), part(&target), length.min(count - start));
    };
    match count.div_ceil(length) {
        0 => {}
        1 => chunk(0),
        chunks => parallel::for_each(chunks, || (), |(), index| chunk(index)),
    }
}

/// Loads up to 16 values.
///
/// # Safety
/// The processor has AVX512-BF16, and `values` is valid for min(`left`, 16) values.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) unsafe fn load(values: *const u16, left: usize) -> __m512 {
    // SAFETY: guaranteed by the caller.
    let bits = unsafe {
        if left >= LANES {
            _mm256_loadu_si256(values.cast())
        } else {
            _mm256_maskz_loadu_epi16((1 << left) - 1, values.cast())
        }
    };
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits)))
}

/// Rounds and stores up to 16 values.
///
/// # Safety
/// As for [`load`], for `out`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn store(out: *mut u16, left: usize, values: __m512) {
    // SAFETY: guaranteed by the caller; both types are 16 times 16 bits.
    unsafe {
        let bits = transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(values));
        if left >= LANES {
            _mm256_storeu_si256(out.cast(), bits);
        } else {
            _mm256_mask_storeu_epi16(out.cast(), (1 << left) - 1, bits);
        }
    }
}
