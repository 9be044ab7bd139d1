//! Matrix product of a few rows in registers: bf16 factors, fp32 sums (VDPBF16PS of AVX512-BF16).
//!
//! Factors are held as pairs of bf16 in a `u32`, the pair along the dimension that is summed over.

use std::arch::x86_64::{
    __m256bh, __m256i, __m512, __m512bh, __m512i, _mm512_cvtepu16_epi32, _mm512_cvtne2ps_pbh,
    _mm512_cvtneps_pbh, _mm512_dpbf16_ps, _mm512_loadu_ps, _mm512_maskz_loadu_epi32, _mm512_or_si512,
    _mm512_set1_epi32, _mm512_setzero_ps, _mm512_shuffle_i32x4, _mm512_slli_epi32, _mm512_storeu_ps,
    _mm512_storeu_si512, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32,
    _mm512_unpacklo_epi64,
};
use std::mem::transmute;

/// fp32 values in a register.
pub(super) const LANES: usize = 16;
/// Rows of a tile: with four registers of columns, 24 of the 32 registers hold sums.
pub(super) const ROWS: usize = 6;
/// Registers of columns of a tile.
const COLUMNS: usize = 4;

/// A matrix in memory; rows are `stride` pairs apart.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    pub data: &'a [u32],
    pub stride: usize,
}

/// Rounds a row, a multiple of 32 long, to pairs of its neighbours.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) fn pairs_along(row: &[f32], pairs: &mut [u32]) {
    assert!(row.len().is_multiple_of(2 * LANES) && pairs.len() == row.len() / 2);
    for (values, out) in row.as_chunks::<{ 2 * LANES }>().0.iter().zip(pairs.as_chunks_mut::<LANES>().0) {
        // SAFETY: 32 values and 16 pairs.
        unsafe {
            let [low, high] = [0, LANES].map(|start| _mm512_loadu_ps(values.as_ptr().add(start)));
            let packed = transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
            _mm512_storeu_si512(out.as_mut_ptr().cast(), packed);
        }
    }
}

/// Rounds two rows, a multiple of 16 long, to pairs of what they have in the same column.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) fn pairs_across(rows: [&[f32]; 2], pairs: &mut [u32]) {
    assert!(rows.iter().all(|row| row.len() == pairs.len()) && pairs.len().is_multiple_of(LANES));
    let [low, high] = rows.map(|row| row.as_chunks::<LANES>().0);
    for ((low, high), out) in low.iter().zip(high).zip(pairs.as_chunks_mut::<LANES>().0) {
        // SAFETY: 16 values each.
        unsafe {
            let [low, high] = [low, high].map(|values| {
                let rounded = _mm512_cvtneps_pbh(_mm512_loadu_ps(values.as_ptr()));
                _mm512_cvtepu16_epi32(transmute::<__m256bh, __m256i>(rounded))
            });
            let packed = _mm512_or_si512(low, _mm512_slli_epi32::<16>(high));
            _mm512_storeu_si512(out.as_mut_ptr().cast(), packed);
        }
    }
}

/// One to 16 pairs; zeros where there are fewer than 16.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn load_pairs(values: &[u16]) -> __m512i {
    assert!((2..=2 * LANES).contains(&values.len()));
    let mask = u16::MAX >> (LANES - values.len() / 2);
    // SAFETY: the mask has a bit for every pair that there is.
    unsafe { _mm512_maskz_loadu_epi32(mask, values.as_ptr().cast()) }
}

/// Turns sixteen rows of sixteen values into sixteen columns: the pairs of values that are one, two, four and eight rows
/// apart change places with those as many columns apart.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn transposed(rows: [__m512i; LANES]) -> [__m512i; LANES] {
    let mut x = rows;
    // Within 128 bits, columns one and two apart.
    for pair in x.as_chunks_mut::<2>().0 {
        let [a, b] = *pair;
        *pair = [_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b)];
    }
    for four in x.as_chunks_mut::<4>().0 {
        let [a, b, c, d] = *four;
        *four = [
            _mm512_unpacklo_epi64(a, c),
            _mm512_unpackhi_epi64(a, c),
            _mm512_unpacklo_epi64(b, d),
            _mm512_unpackhi_epi64(b, d),
        ];
    }
    // Of 128 bits each: `x[4 · g + r]` has, for the columns r, 4 + r, 8 + r and 12 + r, the four rows of group g.
    let mut columns = rows;
    for r in 0..4 {
        let [a, b, c, d] = [x[r], x[4 + r], x[8 + r], x[12 + r]];
        let first = _mm512_shuffle_i32x4::<0b01_00_01_00>(a, b);
        let second = _mm512_shuffle_i32x4::<0b01_00_01_00>(c, d);
        columns[r] = _mm512_shuffle_i32x4::<0b10_00_10_00>(first, second);
        columns[4 + r] = _mm512_shuffle_i32x4::<0b11_01_11_01>(first, second);
        let first = _mm512_shuffle_i32x4::<0b11_10_11_10>(a, b);
        let second = _mm512_shuffle_i32x4::<0b11_10_11_10>(c, d);
        columns[8 + r] = _mm512_shuffle_i32x4::<0b10_00_10_00>(first, second);
        columns[12 + r] = _mm512_shuffle_i32x4::<0b11_01_11_01>(first, second);
    }
    columns
}

/// The left factor of a product: what a row has for a pair is at `row · r + pair · k`.
#[derive(Clone, Copy)]
pub(super) struct Left<'a> {
    pub data: &'a [u32],
    /// Distance of rows.
    pub row: usize,
    /// Distance of pairs.
    pub pair: usize,
}

impl<'a> Left<'a> {
    /// Rows of pairs that follow each other.
    pub fn by_row(data: &'a [u32], stride: usize) -> Self {
        Self { data, row: stride, pair: 1 }
    }

    /// Columns of pairs: the transpose of a matrix whose rows follow each other.
    pub fn by_column(data: &'a [u32], stride: usize) -> Self {
        Self { data, row: 1, pair: stride }
    }
}

/// `sums[r][c] += Σ_k left[r][k] · right[k][c]` for `rows` rows and `columns` columns, a multiple of [`LANES`], with
/// `pairs` pairs along k.
///
/// # Panics
/// Where a matrix is too small.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) fn multiply_add(
    left: Left,
    right: Matrix,
    sums: &mut [f32],
    sums_stride: usize,
    [rows, columns, pairs]: [usize; 3],
) {
    assert!(columns.is_multiple_of(LANES) && columns <= sums_stride && columns <= right.stride);
    if rows == 0 || columns == 0 || pairs == 0 {
        return;
    }
    assert!(left.data.len() > (rows - 1) * left.row + (pairs - 1) * left.pair);
    assert!(right.data.len() >= (pairs - 1) * right.stride + columns);
    assert!(sums.len() >= (rows - 1) * sums_stride + columns);
    for column in (0..columns).step_by(COLUMNS * LANES) {
        let registers = ((columns - column) / LANES).min(COLUMNS);
        for row in (0..rows).step_by(ROWS) {
            // SAFETY: the asserts above say that every row, column and pair of the tile is in its matrix.
            unsafe {
                let left = (left.data.as_ptr().add(row * left.row), [left.row, left.pair]);
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
    left: (*const u32, [usize; 2]),
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
/// `left` has R rows of `pairs` at these distances, `right` `pairs` rows and `sums` R rows of C registers.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn tile<const R: usize, const C: usize>(
    (left, [left_row, left_pair]): (*const u32, [usize; 2]),
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
                let pair = _mm512_set1_epi32(*left.add(r * left_row + k * left_pair) as i32);
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
