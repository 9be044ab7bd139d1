//! Matrix product of a few rows in registers: bf16 factors, fp32 sums (VDPBF16PS of AVX512-BF16).
//!
//! Factors are held as pairs of bf16 in a `u32`, the pair along the dimension that is summed over.

use std::arch::x86_64::{
    __m512, __m512bh, __m512i, _mm512_dpbf16_ps, _mm512_loadu_ps, _mm512_set1_epi32, _mm512_setzero_ps,
    _mm512_storeu_ps,
};
use std::mem::transmute;

/// fp32 values in a register.
pub(super) const LANES: usize = 16;
/// Rows of a tile: with four registers of columns, 24 of the 32 registers hold sums.
const ROWS: usize = 6;
/// Registers of columns of a tile.
const COLUMNS: usize = 4;

/// A matrix of `u32` or `f32` in memory; rows are `stride` elements apart.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a, T> {
    pub data: &'a [T],
    pub stride: usize,
}

/// `sums[r][c] += Σ_k left[r][k] · right[k][c]` for `rows` rows and `columns` columns, a multiple of [`LANES`], with
/// `pairs` pairs along k.
///
/// # Panics
/// Where a matrix is too small.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) fn multiply_add(
    left: Matrix<u32>,
    right: Matrix<u32>,
    sums: &mut [f32],
    sums_stride: usize,
    [rows, columns, pairs]: [usize; 3],
) {
    assert!(
        columns.is_multiple_of(LANES)
            && columns <= sums_stride
            && columns <= right.stride
            && pairs <= left.stride
    );
    if rows == 0 || columns == 0 || pairs == 0 {
        return;
    }
    assert!(left.data.len() >= (rows - 1) * left.stride + pairs);
    assert!(right.data.len() >= (pairs - 1) * right.stride + columns);
    assert!(sums.len() >= (rows - 1) * sums_stride + columns);
    for column in (0..columns).step_by(COLUMNS * LANES) {
        let registers = ((columns - column) / LANES).min(COLUMNS);
        for row in (0..rows).step_by(ROWS) {
            // SAFETY: the asserts above say that every row, column and pair of the tile is in its matrix.
            unsafe {
                let left = (left.data.as_ptr().add(row * left.stride), left.stride);
                let right = (right.data.as_ptr().add(column), right.stride);
                let sums = (sums.as_mut_ptr().add(row * sums_stride + column), sums_stride);
                match registers {
                    4 => rows_of::<4>(left, right, sums, (rows - row).min(ROWS), pairs),
                    3 => rows_of::<3>(left, right, sums, (rows - row).min(ROWS), pairs),
                    2 => rows_of::<2>(left, right, sums, (rows - row).min(ROWS), pairs),
                    _ => rows_of::<1>(left, right, sums, (rows - row).min(ROWS), pairs),
                }
            }
        }
    }
}

/// A start and the distance of rows.
type Rows<P> = (P, usize);

/// # Safety
/// As [`tile`].
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn rows_of<const C: usize>(
    left: Rows<*const u32>,
    right: Rows<*const u32>,
    sums: Rows<*mut f32>,
    rows: usize,
    pairs: usize,
) {
    // SAFETY: the caller's.
    unsafe {
        match rows {
            6 => tile::<6, C>(left, right, sums, pairs),
            5 => tile::<5, C>(left, right, sums, pairs),
            4 => tile::<4, C>(left, right, sums, pairs),
            3 => tile::<3, C>(left, right, sums, pairs),
            2 => tile::<2, C>(left, right, sums, pairs),
            _ => tile::<1, C>(left, right, sums, pairs),
        }
    }
}

/// # Safety
/// `left` has R rows of `pairs`, `right` `pairs` rows and `sums` R rows of C registers.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn tile<const R: usize, const C: usize>(
    (left, left_stride): Rows<*const u32>,
    (right, right_stride): Rows<*const u32>,
    (sums, sums_stride): Rows<*mut f32>,
    pairs: usize,
) {
    let mut acc = [[_mm512_setzero_ps(); C]; R];
    // SAFETY: every address is within what the caller promises.
    unsafe {
        for (r, row) in acc.iter_mut().enumerate() {
            for (c, value) in row.iter_mut().enumerate() {
                *value = _mm512_loadu_ps(sums.add(r * sums_stride + c * LANES));
            }
        }
        for k in 0..pairs {
            let mut columns = [_mm512_setzero_ps(); C];
            for (c, value) in columns.iter_mut().enumerate() {
                *value = _mm512_loadu_ps(right.add(k * right_stride + c * LANES).cast());
            }
            for (r, row) in acc.iter_mut().enumerate() {
                let pair = _mm512_set1_epi32(*left.add(r * left_stride + k) as i32);
                for (value, column) in row.iter_mut().zip(&columns) {
                    *value = _mm512_dpbf16_ps(
                        *value,
                        transmute::<__m512i, __m512bh>(pair),
                        transmute::<__m512, __m512bh>(*column),
                    );
                }
            }
        }
        for (r, row) in acc.iter().enumerate() {
            for (c, value) in row.iter().enumerate() {
                _mm512_storeu_ps(sums.add(r * sums_stride + c * LANES), *value);
            }
        }
    }
}
