//! One head of one window: keys and values are packed once, then blocks of queries are multiplied with chunks
//! of keys.

use std::arch::x86_64::{_mm512_setzero_si512, _mm512_storeu_si512};

use super::bias::BiasView;
use super::shape::{AttentionShape, Cut};
use super::softmax::{Running, exponentials};
use super::tile::{LANES, Left, Matrix, load_pairs, multiply_add, transposed};
use super::values::{Output, pack};

/// Queries per block; a multiple of the rows of a tile.
pub(super) const QUERIES: usize = 60;
/// Approximate number of keys per chunk.
const KEYS: usize = 256;
/// Score of a padding column, which stands for no key.
pub(super) const NO_KEY: f32 = -1e30;

/// Working memory of one thread.
#[derive(Default)]
pub(super) struct Scratch {
    /// Tokens of the window.
    tokens: Vec<Option<usize>>,
    /// Keys as channel pairs, `[c / 2, tokens]`.
    keys: Vec<u32>,
    /// Values as token pairs, `[tokens / 2, c]`.
    values: Vec<u32>,
    /// Queries of the current block, `[QUERIES, c / 2]`.
    queries: Vec<u32>,
    /// `[QUERIES, chunk]`.
    scores: Vec<f32>,
    /// `[QUERIES, chunk / 2]`.
    probabilities: Vec<u32>,
    /// `[QUERIES, c]`.
    weighted: Vec<f32>,
    /// `[QUERIES, rows of keys]` and `[QUERIES, columns of keys]`.
    along: [Vec<f32>; 2],
}

/// One head of one window, or a part of its queries.
pub(super) struct Job<'a> {
    pub shape: &'a AttentionShape,
    /// `[B, H, W, 3·C]`.
    pub qkv: &'a [u16],
    /// `[3·C]`.
    pub outside: &'a [u16],
    pub bias: BiasView<'a>,
    pub image: usize,
    /// Top left token of the window.
    pub start: [usize; 2],
    pub head: usize,
    /// Index of this part and number of parts. The window's rows of queries are split among the parts.
    pub part: [usize; 2],
}

impl Job<'_> {
    /// Computes the head's output for the queries of this part and writes it to `output`.
    ///
    /// # Safety
    /// The processor has AVX512-BF16, `output` has `[B, H, W, C]` values, and no other job writes to this head
    /// of these tokens at the same time.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    pub unsafe fn run(&self, scratch: &mut Scratch, output: &Output) {
        let AttentionShape { window: [_, window_w], head_channels: channels, .. } = *self.shape;
        let tokens = self.keys();
        // One extra register per row keeps the same column of neighbouring rows out of the same cache set.
        let key_stride = tokens.next_multiple_of(LANES) + LANES;
        self.pack_keys_and_values(scratch, key_stride);

        let chunk = if tokens <= KEYS { tokens } else { ((KEYS / window_w) & !1).max(2) * window_w };
        let width = chunk.next_multiple_of(2 * LANES);
        let pairs = channels / 2;
        scratch.queries.resize(QUERIES * pairs, 0);
        scratch.scores.resize(QUERIES * width, 0.0);
        scratch.probabilities.resize(QUERIES * width / 2, 0);
        scratch.weighted.resize(QUERIES * channels, 0.0);
        let scale = (channels as f32).sqrt().recip();

        for (block, count) in self.blocks(QUERIES) {
            let block = &block[..count];
            self.pack_queries(block, scratch);
            self.prepare_bias(block, scratch);
            scratch.weighted.fill(0.0);
            let mut running = [Running::START; QUERIES];
            for first in (0..tokens).step_by(chunk) {
                let keys = chunk.min(tokens - first);
                self.fill_with_bias(block, [first, keys], &scratch.along, width, &mut scratch.scores);
                multiply_add(
                    Left::by_row(&scratch.queries, pairs),
                    Matrix { data: &scratch.keys[first..], stride: key_stride },
                    &mut scratch.scores,
                    width,
                    [block.len(), keys.next_multiple_of(LANES), pairs],
                );
                for (row, running) in running.iter_mut().enumerate().take(block.len()) {
                    let scores = &mut scratch.scores[row * width..][..width];
                    scores[keys..].fill(NO_KEY);
                    exponentials(
                        scores,
                        scale,
                        running,
                        &mut scratch.probabilities[row * width / 2..][..width / 2],
                        &mut scratch.weighted[row * channels..][..channels],
                    );
                }
                multiply_add(
                    Left::by_row(&scratch.probabilities, width / 2),
                    Matrix { data: &scratch.values[first / 2 * channels..], stride: channels },
                    &mut scratch.weighted,
                    channels,
                    [block.len(), channels, keys.div_ceil(2)],
                );
            }
            for (row, (&query, running)) in block.iter().zip(&running).enumerate() {
                let weighted = &scratch.weighted[row * channels..][..channels];
                let start = self.index(query) * self.shape.channels() + self.head * channels;
                // SAFETY: guaranteed by the caller.
                unsafe { output.write(start, weighted, running.sum.recip()) };
            }
        }
    }

    /// Number of rows and columns of the window that lie within the image.
    pub(super) fn inside(&self) -> [usize; 2] {
        [0, 1].map(|axis| self.shape.window[axis].min(self.shape.image[axis] - self.start[axis]))
    }

    fn cut(&self) -> Cut {
        let [bottom, right] = [0, 1].map(|axis| self.inside()[axis] < self.shape.window[axis]);
        Cut { bottom, right }
    }

    /// Number of keys. With decomposed positions: all tokens of the window. With tables: the tokens within the
    /// image, plus one key for all padding tokens if the window is cut.
    pub(super) fn keys(&self) -> usize {
        let product = |[rows, columns]: [usize; 2]| rows * columns;
        match self.bias {
            BiasView::Tables(_) => product(self.inside()) + usize::from(self.cut().is_cut()),
            BiasView::Decomposed(_) => product(self.shape.window),
        }
    }

    /// Blocks of this part's query tokens, padding excluded: each item is the tokens' `[row, column]` in the
    /// window and their number, at most `limit`. No heap memory is allocated, because threads would contend for
    /// the allocator.
    pub(super) fn blocks(
        &self,
        limit: usize,
    ) -> impl Iterator<Item = ([[usize; 2]; QUERIES], usize)> + use<> {
        let [rows, columns] = self.inside();
        let [part, parts] = self.part;
        let own = rows * part / parts..rows * (part + 1) / parts;
        let count = own.len() * columns;
        let mut next = [own.start, 0];
        (0..count).step_by(limit.min(QUERIES)).map(move |first| {
            let mut block = [[0; 2]; QUERIES];
            let size = limit.min(QUERIES).min(count - first);
            for token in &mut block[..size] {
                *token = next;
                next = if next[1] + 1 == columns { [next[0] + 1, 0] } else { [next[0], next[1] + 1] };
            }
            (block, size)
        })
    }

    /// Index within the batch of a window token that lies within the image.
    pub(super) fn index(&self, [row, column]: [usize; 2]) -> usize {
        let [height, width] = self.shape.image;
        (self.image * height + self.start[0] + row) * width + self.start[1] + column
    }

    /// Index within the batch of any window token; `None` for padding.
    fn token(&self, at: [usize; 2]) -> Option<usize> {
        let is_inside = [0, 1].iter().all(|&axis| self.start[axis] + at[axis] < self.shape.image[axis]);
        is_inside.then(|| self.index(at))
    }

    /// One role (query, key or value) of a token in this head. `offset` is from [`AttentionShape::offsets`].
    pub(super) fn vector(&self, token: Option<usize>, offset: usize) -> &[u16] {
        let all = match token {
            Some(token) => &self.qkv[token * 3 * self.shape.channels()..],
            None => self.outside,
        };
        &all[offset..][..self.shape.head_channels]
    }

    /// Packs keys as `[c / 2, tokens]` and values as `[tokens / 2, c]`.
    #[target_feature(enable = "avx512f,avx512bw")]
    fn pack_keys_and_values(&self, scratch: &mut Scratch, key_stride: usize) {
        let [_, key, value] = self.shape.offsets(self.head);
        self.list_tokens(&mut scratch.tokens);
        self.pack_channel_pairs(&scratch.tokens, key, key_stride, &mut scratch.keys);
        self.pack_token_pairs(&scratch.tokens, value, &mut scratch.values);
    }

    /// Lists the tokens whose keys are used, row by row, `None` for padding. The list is filled up to whole
    /// registers with the first token.
    pub(super) fn list_tokens(&self, tokens: &mut Vec<Option<usize>>) {
        let [rows, columns] = match self.bias {
            BiasView::Tables(_) => self.inside(),
            BiasView::Decomposed(_) => self.shape.window,
        };
        tokens.clear();
        for row in 0..rows {
            tokens.extend((0..columns).map(|column| self.token([row, column])));
        }
        tokens.resize(self.keys(), None);
        tokens.resize(tokens.len().next_multiple_of(LANES), self.token([0, 0]));
    }

    /// Packs one role of `tokens` as channel pairs, `[c / 2, stride]`.
    #[target_feature(enable = "avx512f")]
    pub(super) fn pack_channel_pairs(
        &self,
        tokens: &[Option<usize>],
        offset: usize,
        stride: usize,
        packed: &mut Vec<u32>,
    ) {
        let pairs = self.shape.head_channels / 2;
        packed.resize(pairs * stride, 0);
        for (group, tokens) in tokens.as_chunks::<LANES>().0.iter().enumerate() {
            for start in (0..pairs).step_by(LANES) {
                let count = LANES.min(pairs - start);
                let mut rows = [_mm512_setzero_si512(); LANES];
                for (row, &token) in rows.iter_mut().zip(tokens) {
                    *row = load_pairs(&self.vector(token, offset)[2 * start..][..2 * count]);
                }
                let columns = transposed(rows);
                for (out, column) in packed[start * stride..].chunks_mut(stride).zip(columns).take(count) {
                    let out = &mut out[group * LANES..][..LANES];
                    // SAFETY: 16 values.
                    unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), column) };
                }
            }
        }
    }

    /// Packs one role of `tokens` as token pairs, `[tokens / 2, c]`.
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn pack_token_pairs(&self, tokens: &[Option<usize>], offset: usize, packed: &mut Vec<u32>) {
        let channels = self.shape.head_channels;
        packed.resize(tokens.len() / 2 * channels, 0);
        for (&[low, high], out) in tokens.as_chunks::<2>().0.iter().zip(packed.chunks_exact_mut(channels)) {
            let both = self.vector(low, offset).iter().zip(self.vector(high, offset));
            out.iter_mut().zip(both).for_each(|(out, (&low, &high))| *out = pack(low, high));
        }
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    fn pack_queries(&self, block: &[[usize; 2]], scratch: &mut Scratch) {
        let pairs = self.shape.head_channels / 2;
        let [query, ..] = self.shape.offsets(self.head);
        for (&token, out) in block.iter().zip(scratch.queries.chunks_exact_mut(pairs)) {
            let vector = self.vector(self.token(token), query);
            out.iter_mut()
                .zip(vector.as_chunks::<2>().0)
                .for_each(|(out, &[low, high])| *out = pack(low, high));
        }
    }

    /// For decomposed positions: multiplies the block's queries with the position vectors of their row and
    /// column.
    #[target_feature(enable = "avx512f,avx512bf16")]
    fn prepare_bias(&self, block: &[[usize; 2]], scratch: &mut Scratch) {
        let BiasView::Decomposed(tables) = self.bias else { return };
        let root = (self.shape.head_channels as f32).sqrt();
        for (axis, table) in tables.iter().enumerate() {
            let (stride, pairs) = (table.stride, table.pairs);
            let along = &mut scratch.along[axis];
            along.clear();
            along.resize(QUERIES * stride, 0.0);
            for (row, token) in block.iter().enumerate() {
                multiply_add(
                    Left::by_row(&scratch.queries[row * pairs..][..pairs], pairs),
                    table.of_query(token[axis]),
                    &mut along[row * stride..],
                    stride,
                    [1, stride, pairs],
                );
            }
            along.iter_mut().for_each(|value| *value *= root);
        }
    }

    /// Initialises the scores of `keys` keys from `first` with the position bias, times √c.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) fn fill_with_bias(
        &self,
        block: &[[usize; 2]],
        [first, keys]: [usize; 2],
        along: &[Vec<f32>; 2],
        width: usize,
        scores: &mut [f32],
    ) {
        match self.bias {
            BiasView::Tables(tables) => {
                let (table, all) = (tables[self.cut().index()], self.keys());
                let [rows, columns] = self.inside();
                for (&[row, column], scores) in block.iter().zip(scores.chunks_exact_mut(width)) {
                    let query = (self.head * rows + row) * columns + column;
                    scores[..keys].copy_from_slice(&table[query * all + first..][..keys]);
                }
            }
            BiasView::Decomposed([table_h, table_w]) => {
                let [_, window_w] = self.shape.window;
                let [along_h, along_w] = along;
                for (index, scores) in scores.chunks_exact_mut(width).enumerate().take(block.len()) {
                    let by_row = &along_h[index * table_h.stride + first / window_w..];
                    let by_column = &along_w[index * table_w.stride..][..window_w];
                    for (scores, by_row) in scores[..keys].chunks_exact_mut(window_w).zip(by_row) {
                        scores
                            .iter_mut()
                            .zip(by_column)
                            .for_each(|(score, by_column)| *score = by_row + by_column);
                    }
                }
            }
        }
    }
}
