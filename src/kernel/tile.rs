//! Matrix product of a few rows in registers: bf16 factors, fp32 sums (VDPBF16PS of AVX512-BF16).
//!
//! Factors are stored as bf16 pairs in a `u32`. The two values of a pair are neighbours along the summed
//! dimension.

use std::arch::x86_64::{
    __m256bh, __m256i, __m512, __m512bh, __m512i, _mm512_cvtepu16_epi32, _mm512_cvtne2ps_pbh,
    _mm512_cvtneps_pbh, _mm512_dpbf16_ps, _mm512_loadu_ps, _mm512_maskz_loadu_epi32, _mm512_or_si512,
    _mm512_set1_epi32, _mm512_setzero_ps, _mm512_shuffle_i32x4, _mm512_slli_epi32, _mm512_storeu_ps,
    _mm512_storeu_si512, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32,
    _mm512_unpacklo_epi64,
};
use std::mem::transmute;

/// fp32 values per register.
pub(super) const LANES: usize = 16;
/// Rows per tile: with four registers of columns, sums take 24 of the 32 registers.
pub(super) const ROWS: usize = 6;
/// Registers of columns per tile.
const COLUMNS: usize = 4;

/// A matrix in memory. Consecutive rows are `stride` pairs apart.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    pub data: &'a [u32],
    pub stride: usize,
}

/// Rounds a row (length a multiple of 32) to bf16 and packs horizontal neighbours into pairs.
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

/// Rounds two rows (length a multiple of 16) to bf16 and packs the values of the same column into pairs.
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

/// Loads 1 to 16 pairs and pads with zeros.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn load_pairs(values: &[u16]) -> __m512i {
    assert!((2..=2 * LANES).contains(&values.len()));
    let mask = u16::MAX >> (LANES - values.len() / 2);
    // SAFETY: the mask has one bit per available pair.
    unsafe { _mm512_maskz_loadu_epi32(mask, values.as_ptr().cast()) }
}

/// Transposes a 16 × 16 block in three steps: single values, pairs of values, then groups of 128 bits.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn transposed(rows: [__m512i; LANES]) -> [__m512i; LANES] {
    let mut x = rows;
    // Transposes within 128-bit groups: first single values, then pairs.
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
    // Transposes the 128-bit groups: `x[4 · g + r]` holds the four rows of group g for the columns r, 4 + r, 8
    // + r, 12 + r.
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

/// The left factor of a product. Element (r, k) is at index `r · row + k · pair`.
#[derive(Clone, Copy)]
pub(super) struct Left<'a> {
    pub data: &'a [u32],
    /// Distance between rows.
    pub row: usize,
    /// Distance between pairs.
    pub pair: usize,
}

impl<'a> Left<'a> {
    /// A matrix stored row by row.
    pub fn by_row(data: &'a [u32], stride: usize) -> Self {
        Self { data, row: stride, pair: 1 }
    }

    /// The transpose of a matrix stored row by row.
    pub fn by_column(data: &'a [u32], stride: usize) -> Self {
        Self { data, row: 1, pair: stride }
    }
}

/// `sums[r][c] += Σ_k left[r][k] · right[k][c]` for `rows` rows, `columns` columns (a multiple of [`LANES`])
/// and `pairs` pairs along k.
///
/// # Panics
/// If a matrix is too small.
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
            // SAFETY: the asserts above guarantee that every row, column and pair of the tile lies within its
            // matrix.
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

/// Start address and distance between rows.
type Rows<P> = (P, usize);

/// # Safety
/// As for [`tile`].
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn rows_of<const C: usize>(
    left: (*const u32, [usize; 2]),
    right: Rows<*const u32>,
    sums: Rows<*mut f32>,
    rows: usize,
    pairs: usize,
) {
    // SAFETY: guaranteed by the caller.
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
/// `left` has R rows of `pairs` pairs at these distances. `right` has `pairs` rows and `sums` has R rows, each
/// of C registers.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn tile<const R: usize, const C: usize>(
    (left, [left_row, left_pair]): (*const u32, [usize; 2]),
    (right, right_stride): Rows<*const u32>,
    (sums, sums_stride): Rows<*mut f32>,
    pairs: usize,
) {
    let mut acc = [[_mm512_setzero_ps(); C]; R];
    // SAFETY: every address lies within the ranges that the caller guarantees.
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
