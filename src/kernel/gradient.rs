//! The gradient of attention for one head of one window. Probabilities are recomputed for one block of queries
//! at a time (Dao et al. 2022).

use super::block::{Job, NO_KEY, QUERIES};
use super::softmax::{softmax, softmax_gradient};
use super::tile::{LANES, Left, Matrix, ROWS, multiply_add, pairs_across, pairs_along};
use super::values::{Output, pack};

/// Approximate number of scores per block.
const VALUES: usize = 8192;

/// Working memory of one thread. N is the number of keys, padded to whole registers.
#[derive(Default)]
pub(super) struct Scratch {
    /// Tokens of the window.
    tokens: Vec<Option<usize>>,
    /// Keys and values as channel pairs, `[c / 2, N]`.
    keys: Vec<u32>,
    values: Vec<u32>,
    /// Keys as token pairs, `[N / 2, c]`.
    key_pairs: Vec<u32>,
    queries: Block,
    gradients: Block,
    /// `[QUERIES, N]`.
    probabilities: Vec<f32>,
    /// `[QUERIES, N]`: gradients w.r.t. the probabilities, then w.r.t. the scores.
    of_scores: Vec<f32>,
    /// Score gradients as pairs of keys, `[QUERIES, N / 2]`.
    along: Vec<u32>,
    /// Probabilities or score gradients as pairs of queries, `[QUERIES / 2, N]`.
    across: Vec<u32>,
    /// `[QUERIES, c]`.
    for_queries: Vec<f32>,
    /// `[N, c]`.
    for_keys: Vec<f32>,
    for_values: Vec<f32>,
}

/// The vectors of a block's tokens, packed in two ways.
#[derive(Default)]
struct Block {
    /// Channel pairs, `[QUERIES, c / 2]`.
    rows: Vec<u32>,
    /// Token pairs, `[QUERIES / 2, c]`.
    columns: Vec<u32>,
}

impl Block {
    /// Packs the vectors of `count` tokens. If `count` is odd, the last token is paired with zeros.
    #[target_feature(enable = "avx512f,avx512bw")]
    fn pack<'a>(&mut self, channels: usize, count: usize, vector: impl Fn(usize) -> &'a [u16]) {
        self.rows.resize(QUERIES * channels / 2, 0);
        self.columns.resize(QUERIES / 2 * channels, 0);
        for (token, row) in self.rows.chunks_exact_mut(channels / 2).enumerate().take(count) {
            let pairs = vector(token).as_chunks::<2>().0;
            row.iter_mut().zip(pairs).for_each(|(out, &[low, high])| *out = pack(low, high));
        }
        for (pair, columns) in self.columns.chunks_exact_mut(channels).enumerate().take(count.div_ceil(2)) {
            let (low, high) = (vector(2 * pair), 2 * pair + 1);
            if high < count {
                let both = low.iter().zip(vector(high));
                columns.iter_mut().zip(both).for_each(|(out, (&low, &high))| *out = pack(low, high));
            } else {
                columns.iter_mut().zip(low).for_each(|(out, &low)| *out = pack(low, 0));
            }
        }
    }
}

/// One head of one window, and the gradients w.r.t. the output, `[B, H, W, C]`.
pub(super) struct GradientJob<'a> {
    /// Covers all queries of the window.
    pub job: Job<'a>,
    pub gradients: &'a [u16],
}

impl GradientJob<'_> {
    /// Computes and writes the gradients w.r.t. queries, keys and values. Padding tokens get none.
    ///
    /// # Safety
    /// The processor has AVX512-BF16, `output` has `[B, H, W, 3·C]` values, and no other job writes to this
    /// head of these tokens at the same time.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    pub unsafe fn run(&self, scratch: &mut Scratch, output: &Output) {
        let Self { job, .. } = self;
        let (shape, channels) = (job.shape, job.shape.head_channels);
        let (tokens, pairs) = (job.keys(), channels / 2);
        let width = tokens.next_multiple_of(2 * LANES);
        let stride = width + LANES;
        // This many scores and their gradients fit into the first-level cache.
        let limit = (VALUES / width).max(1).next_multiple_of(ROWS);
        let scale = (channels as f32).sqrt().recip();
        let [query, key, value] = shape.offsets(job.head);
        let of_token = |at| job.index(at) * 3 * shape.channels();
        job.list_tokens(&mut scratch.tokens);
        job.pack_channel_pairs(&scratch.tokens, key, stride, &mut scratch.keys);
        job.pack_channel_pairs(&scratch.tokens, value, stride, &mut scratch.values);
        job.pack_token_pairs(&scratch.tokens, key, &mut scratch.key_pairs);
        for rows in [&mut scratch.probabilities, &mut scratch.of_scores] {
            rows.resize(QUERIES * width, 0.0);
        }
        scratch.along.resize(QUERIES * width / 2, 0);
        scratch.across.resize(QUERIES / 2 * width, 0);
        for sums in [&mut scratch.for_keys, &mut scratch.for_values] {
            sums.clear();
            sums.resize(width * channels, 0.0);
        }

        for (block, count) in job.blocks(limit) {
            let block = &block[..count];
            scratch.queries.pack(channels, count, |row| job.vector(Some(job.index(block[row])), query));
            scratch.gradients.pack(channels, count, |row| self.gradient(block[row]));
            let columns = tokens.next_multiple_of(LANES);
            job.fill_with_bias(block, [0, tokens], &Default::default(), width, &mut scratch.probabilities);
            multiply_add(
                Left::by_row(&scratch.queries.rows, pairs),
                Matrix { data: &scratch.keys, stride },
                &mut scratch.probabilities,
                width,
                [count, columns, pairs],
            );
            scratch.of_scores[..count * width].fill(0.0);
            multiply_add(
                Left::by_row(&scratch.gradients.rows, pairs),
                Matrix { data: &scratch.values, stride },
                &mut scratch.of_scores,
                width,
                [count, columns, pairs],
            );
            let rows =
                scratch.probabilities.chunks_exact_mut(width).zip(scratch.of_scores.chunks_exact_mut(width));
            for ((row, of_row), along) in rows.zip(scratch.along.chunks_exact_mut(width / 2)).take(count) {
                row[tokens..].fill(NO_KEY);
                of_row[tokens..].fill(0.0);
                softmax(row, scale);
                softmax_gradient(row, of_row, scale);
                pairs_along(of_row, along);
            }
            // If `count` is odd, the last query is paired with a row of zeros.
            if count < QUERIES {
                scratch.probabilities[count * width..][..width].fill(0.0);
                scratch.of_scores[count * width..][..width].fill(0.0);
            }

            scratch.for_queries.clear();
            scratch.for_queries.resize(QUERIES * channels, 0.0);
            multiply_add(
                Left::by_row(&scratch.along, width / 2),
                Matrix { data: &scratch.key_pairs, stride: channels },
                &mut scratch.for_queries,
                channels,
                [count, channels, tokens.div_ceil(2)],
            );
            for (of_queries, rows, sums) in [
                (&scratch.gradients, &scratch.probabilities, &mut scratch.for_values),
                (&scratch.queries, &scratch.of_scores, &mut scratch.for_keys),
            ] {
                let across = scratch.across.chunks_exact_mut(width);
                for (rows, across) in rows.chunks_exact(2 * width).zip(across).take(count.div_ceil(2)) {
                    pairs_across([&rows[..width], &rows[width..]], across);
                }
                multiply_add(
                    Left::by_column(&scratch.across, width),
                    Matrix { data: &of_queries.columns, stride: channels },
                    sums,
                    channels,
                    [tokens, channels, count.div_ceil(2)],
                );
            }
            for (&at, values) in block.iter().zip(scratch.for_queries.chunks_exact(channels)) {
                // SAFETY: guaranteed by the caller.
                unsafe { output.write(of_token(at) + query, values, 1.0) };
            }
        }

        let [_, columns] = job.inside();
        for (block, count) in job.blocks(QUERIES) {
            for &at in &block[..count] {
                let number = at[0] * columns + at[1];
                for (offset, sums) in [(key, &scratch.for_keys), (value, &scratch.for_values)] {
                    let values = &sums[number * channels..][..channels];
                    // SAFETY: guaranteed by the caller.
                    unsafe { output.write(of_token(at) + offset, values, 1.0) };
                }
            }
        }
    }

    /// The gradient w.r.t. the head's output for one token.
    fn gradient(&self, at: [usize; 2]) -> &[u16] {
        let (all, own) = (self.job.shape.channels(), self.job.shape.head_channels);
        &self.gradients[self.job.index(at) * all + self.job.head * own..][..own]
    }
}
