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

/// Sizes of a job's matrices.
struct Sizes {
    /// c.
    channels: usize,
    /// c / 2.
    pairs: usize,
    /// Number of keys.
    tokens: usize,
    /// N.
    width: usize,
    /// Length of the rows of packed keys and values.
    stride: usize,
    /// Queries per block.
    limit: usize,
    /// Factor of the scores.
    scale: f32,
}

impl Sizes {
    fn of(job: &Job) -> Self {
        let (tokens, channels) = (job.keys(), job.shape.head_channels);
        let width = tokens.next_multiple_of(2 * LANES);
        Self {
            channels,
            pairs: channels / 2,
            tokens,
            width,
            stride: width + LANES,
            // This many scores and their gradients fit into the first-level cache.
            limit: (VALUES / width).max(1).next_multiple_of(ROWS),
            scale: (channels as f32).sqrt().recip(),
        }
    }

    /// The gradients w.r.t. the `count` queries of a block.
    #[target_feature(enable = "avx512f,avx512bf16")]
    fn sum_over_keys(&self, count: usize, scratch: &mut Scratch) {
        let &Self { channels, tokens, width, .. } = self;
        scratch.for_queries.clear();
        scratch.for_queries.resize(QUERIES * channels, 0.0);
        multiply_add(
            Left::by_row(&scratch.along, width / 2),
            Matrix { data: &scratch.key_pairs, stride: channels },
            &mut scratch.for_queries,
            channels,
            [count, channels, tokens.div_ceil(2)],
        );
    }

    /// Adds the share of the `count` queries of a block to the gradients w.r.t. values and keys.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    fn sum_over_queries(&self, count: usize, scratch: &mut Scratch) {
        let &Self { channels, tokens, width, .. } = self;
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
        let sizes = Sizes::of(&self.job);
        self.prepare(&sizes, scratch);
        for (block, count) in self.job.blocks(sizes.limit) {
            let block = &block[..count];
            self.pack_block(&sizes, block, scratch);
            self.score_gradients(&sizes, block, scratch);
            sizes.sum_over_keys(count, scratch);
            sizes.sum_over_queries(count, scratch);
            // SAFETY: guaranteed by the caller.
            unsafe { self.write_queries(&sizes, block, scratch, output) };
        }
        // SAFETY: guaranteed by the caller.
        unsafe { self.write_keys_and_values(&sizes, scratch, output) };
    }

    /// Packs keys and values, and brings the working memory to its sizes, with sums of 0.
    #[target_feature(enable = "avx512f,avx512bw")]
    fn prepare(&self, sizes: &Sizes, scratch: &mut Scratch) {
        let &Sizes { channels, width, stride, .. } = sizes;
        let job = &self.job;
        let [_, key, value] = job.shape.offsets(job.head);
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
    }

    /// Packs the queries of a block and the gradients w.r.t. their outputs.
    #[target_feature(enable = "avx512f,avx512bw")]
    fn pack_block(&self, sizes: &Sizes, block: &[[usize; 2]], scratch: &mut Scratch) {
        let job = &self.job;
        let [query, ..] = job.shape.offsets(job.head);
        let (channels, count) = (sizes.channels, block.len());
        scratch.queries.pack(channels, count, |row| job.vector(Some(job.index(block[row])), query));
        scratch.gradients.pack(channels, count, |row| self.gradient(block[row]));
    }

    /// The probabilities of a block, and the gradients w.r.t. its scores, as they are and as pairs of keys.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    fn score_gradients(&self, sizes: &Sizes, block: &[[usize; 2]], scratch: &mut Scratch) {
        let &Sizes { pairs, tokens, width, stride, scale, .. } = sizes;
        let (count, columns) = (block.len(), tokens.next_multiple_of(LANES));
        let all = &mut scratch.probabilities;
        self.job.fill_with_bias(block, [0, tokens], &Default::default(), width, all);
        scratch.of_scores[..count * width].fill(0.0);
        for (of_queries, of_keys, sums) in [
            (&scratch.queries, &scratch.keys, &mut scratch.probabilities),
            (&scratch.gradients, &scratch.values, &mut scratch.of_scores),
        ] {
            let (left, right) = (Left::by_row(&of_queries.rows, pairs), Matrix { data: of_keys, stride });
            multiply_add(left, right, sums, width, [count, columns, pairs]);
        }
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
    }

    /// Writes the gradients w.r.t. the queries of a block.
    ///
    /// # Safety
    /// As [`Self::run`].
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn write_queries(&self, sizes: &Sizes, block: &[[usize; 2]], scratch: &Scratch, output: &Output) {
        let [query, ..] = self.job.shape.offsets(self.job.head);
        for (&at, values) in block.iter().zip(scratch.for_queries.chunks_exact(sizes.channels)) {
            // SAFETY: guaranteed by the caller.
            unsafe { output.write(self.start_of(at) + query, values, 1.0) };
        }
    }

    /// Writes the gradients w.r.t. keys and values, which are sums over all blocks.
    ///
    /// # Safety
    /// As [`Self::run`].
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn write_keys_and_values(&self, sizes: &Sizes, scratch: &Scratch, output: &Output) {
        let job = &self.job;
        let [_, key, value] = job.shape.offsets(job.head);
        let [_, columns] = job.inside();
        for (block, count) in job.blocks(QUERIES) {
            for &at in &block[..count] {
                let number = at[0] * columns + at[1];
                for (offset, sums) in [(key, &scratch.for_keys), (value, &scratch.for_values)] {
                    let values = &sums[number * sizes.channels..][..sizes.channels];
                    // SAFETY: guaranteed by the caller.
                    unsafe { output.write(self.start_of(at) + offset, values, 1.0) };
                }
            }
        }
    }

    /// Where the values of a token begin in `[B, H, W, 3·C]`.
    fn start_of(&self, at: [usize; 2]) -> usize {
        self.job.index(at) * 3 * self.job.shape.channels()
    }

    /// The gradient w.r.t. the head's output for one token.
    fn gradient(&self, at: [usize; 2]) -> &[u16] {
        let (all, own) = (self.job.shape.channels(), self.job.shape.head_channels);
        &self.gradients[self.job.index(at) * all + self.job.head * own..][..own]
    }
}
