//! Self-attention within image windows: from projected queries, keys and values to the output of each attention
//! head.
//!
//! Only the scores of one block of queries against one chunk of keys are held at a time, so they stay in cache.
//! Windows are read in place. Windows at the lower and right border are padded: all padding tokens have the
//! same values, which are passed once.

use tch::{Device, Kind, Tensor};

use super::shape::{AttentionShape, Cut, PositionBias};

#[cfg(target_arch = "x86_64")]
use super::bias::Bias;
#[cfg(target_arch = "x86_64")]
use super::block::{Job, Scratch};
#[cfg(target_arch = "x86_64")]
use super::gradient::{GradientJob, Scratch as GradientScratch};
#[cfg(target_arch = "x86_64")]
use super::values::{Output, bf16};
#[cfg(target_arch = "x86_64")]
use crate::tensor::with_backward;

/// Whether [`attention`] can be used: the processor has AVX512-BF16, the tensor is bf16 on the CPU, and the
/// number of channels per head is a multiple of 16.
pub fn is_supported(qkv: &Tensor, head_channels: i64) -> bool {
    super::is_bf16_here(qkv) && head_channels % 16 == 0
}

/// Windowed attention with scale 1/√c: `qkv` `[B, H, W, 3·C]` (contiguous bf16) to `[B, H, W, C]`. `outside`
/// `[3·C]` (bf16) is the query, key and value of a padding token. With [`PositionBias::Tables`], `qkv` may be
/// part of a graph and gets gradients. The tables and `outside` never get gradients.
///
/// # Panics
/// If [`is_supported`] is false, a tensor's size does not match `shape`, or a tensor that cannot get a gradient
/// requires one.
pub fn attention(shape: &AttentionShape, qkv: &Tensor, outside: &Tensor, bias: PositionBias) -> Tensor {
    let AttentionShape {
        batch,
        image: [height, width],
        window: [window_h, window_w],
        heads,
        head_channels,
        ..
    } = *shape;
    assert!(is_supported(qkv, head_channels as i64));
    assert_eq!(
        qkv.size(),
        [batch, height, width, 3 * shape.channels()].map(|size| size as i64),
        "projected tokens"
    );
    assert_eq!(outside.size(), [3 * shape.channels() as i64]);
    let has_no_gradient: &[&Tensor] = match &bias {
        PositionBias::Tables(tables) => {
            for (cut, table) in Cut::ALL.into_iter().zip(*tables) {
                if let Some([rows, columns]) = shape.inside(cut) {
                    let tokens = (rows * columns) as i64;
                    assert_eq!(table.size(), [heads as i64, tokens, tokens + i64::from(cut.is_cut())]);
                    assert!(
                        table.device() == Device::Cpu && table.kind() == Kind::Float && table.is_contiguous()
                    );
                    assert!(!table.requires_grad());
                }
            }
            &[outside]
        }
        PositionBias::Decomposed { along_h, along_w } => {
            for (table, side) in [(along_h, window_h as i64), (along_w, window_w as i64)] {
                assert_eq!(table.size(), [side, side, head_channels as i64]);
                assert_eq!(table.kind(), Kind::BFloat16);
            }
            &[outside, along_h, along_w, qkv]
        }
    };
    assert!(
        has_no_gradient.iter().all(|tensor| !tensor.requires_grad()),
        "the kernel does not compute this gradient"
    );
    #[cfg(target_arch = "x86_64")]
    return Frozen::new(shape, qkv, outside, bias).attend(qkv);
    #[cfg(not(target_arch = "x86_64"))]
    unreachable!("not supported");
}

/// The inputs of one attention, detached from the graph.
#[cfg(target_arch = "x86_64")]
struct Frozen {
    shape: AttentionShape,
    qkv: Tensor,
    outside: Tensor,
    bias: Bias,
}

#[cfg(target_arch = "x86_64")]
impl Frozen {
    fn new(shape: &AttentionShape, qkv: &Tensor, outside: &Tensor, bias: PositionBias) -> Self {
        let bias = Bias::new(shape, bias);
        Self { shape: *shape, qkv: qkv.detach(), outside: outside.shallow_clone(), bias }
    }

    /// The output of all heads, `[B, H, W, C]`, connected to the graph of `qkv`.
    fn attend(self, qkv: &Tensor) -> Tensor {
        let threads = tch::get_num_threads().max(1) as usize;
        // With fewer windows and heads than cores, the queries of each window are split among threads.
        let parts =
            (2 * threads).div_ceil(self.jobs()).min(if threads == 1 { 1 } else { self.shape.window[0] });
        let output = self.output(1);
        self.for_each(parts, &output, |job, scratch: &mut Scratch, output| {
            // SAFETY: `is_supported` was checked, and no two jobs share a head of a token.
            unsafe { job.run(scratch, output) };
        });
        let version = qkv.internal_version();
        with_backward(qkv, output, move |gradient| {
            assert_eq!(
                self.qkv.internal_version(),
                version,
                "the attention's qkv tensor was changed in place"
            );
            self.gradient(gradient)
        })
    }

    /// The gradient w.r.t. `qkv`, given the gradient w.r.t. the output of the heads.
    fn gradient(&self, gradient: &Tensor) -> Tensor {
        let gradient = gradient.contiguous();
        let gradients = bf16(&gradient);
        let output = self.output(3);
        self.for_each(1, &output, |job, scratch: &mut GradientScratch, output| {
            // SAFETY: as above.
            unsafe { GradientJob { job, gradients }.run(scratch, output) };
        });
        output
    }

    /// An uninitialised output tensor `[B, H, W, roles·C]`.
    fn output(&self, roles: usize) -> Tensor {
        let AttentionShape { batch, image: [height, width], .. } = self.shape;
        let size = [batch, height, width, roles * self.shape.channels()].map(|size| size as i64);
        Tensor::empty(size, (Kind::BFloat16, Device::Cpu))
    }

    /// Number of (image, window, head) triples.
    fn jobs(&self) -> usize {
        let [rows, columns] = self.shape.windows();
        self.shape.batch * rows * columns * self.shape.heads
    }

    /// Runs `work` in parallel for each part of each head of each window.
    fn for_each<S: Default>(
        &self,
        parts: usize,
        output: &Tensor,
        work: impl Fn(Job, &mut S, &Output) + Sync,
    ) {
        let Self { shape, bias, .. } = self;
        let [rows, columns] = shape.windows();
        let (qkv, outside, output) = (bf16(&self.qkv), bf16(&self.outside), Output::new(output));
        let bias = bias.view();
        super::parallel::for_each(self.jobs() * parts, S::default, |scratch, index| {
            let (window, head, part) =
                (index / parts / shape.heads, index / parts % shape.heads, index % parts);
            let (image, window) = (window / (rows * columns), window % (rows * columns));
            let job = Job {
                shape,
                qkv,
                outside,
                bias,
                image,
                start: [window / columns * shape.window[0], window % columns * shape.window[1]],
                head,
                part: [part, parts],
            };
            work(job, scratch, &output);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::NO_AVX512_BF16;
    use super::*;
    use crate::kernel::QkvOrder;
    use crate::skip::skipped;

    const CPU: (Kind, Device) = (Kind::Float, Device::Cpu);

    /// bf16 has an 8-bit mantissa. Probabilities and values are rounded to it before the product, and the
    /// result after it.
    const TOLERANCE: f64 = 1e-2;

    /// The definition of attention in fp32, one window at a time.
    fn reference(
        shape: &AttentionShape,
        qkv: &Tensor,
        outside: &Tensor,
        bias: impl Fn(i64, &Tensor) -> Tensor,
    ) -> Tensor {
        let [height, width] = shape.image.map(|side| side as i64);
        let [window_h, window_w] = shape.window.map(|side| side as i64);
        let (heads, channels) = (shape.heads as i64, shape.head_channels as i64);
        let output = Tensor::zeros([shape.batch as i64, height, width, heads * channels], CPU);
        for image in 0..shape.batch as i64 {
            for (top, left) in (0..height)
                .step_by(window_h as usize)
                .flat_map(|y| (0..width).step_by(window_w as usize).map(move |x| (y, x)))
            {
                let (rows, columns) = (window_h.min(height - top), window_w.min(width - left));
                let filled = outside.expand([window_h, window_w, 3 * heads * channels], false).copy();
                let inside = qkv.get(image).narrow(0, top, rows).narrow(1, left, columns);
                filled.narrow(0, 0, rows).narrow(1, 0, columns).copy_(&inside);
                let tokens = filled.view([window_h * window_w, -1]);
                for head in 0..heads {
                    let role = |role: i64| {
                        let start = match shape.order {
                            QkvOrder::ByRole => role * heads + head,
                            QkvOrder::ByHead => head * 3 + role,
                        };
                        tokens.narrow(1, start * channels, channels)
                    };
                    let scores = role(0).matmul(&role(1).tr()) * (channels as f64).sqrt().recip();
                    let attended = (scores + bias(head, &role(0))).softmax(-1, None).matmul(&role(2));
                    let inside = attended
                        .view([window_h, window_w, channels])
                        .narrow(0, 0, rows)
                        .narrow(1, 0, columns);
                    output
                        .get(image)
                        .narrow(0, top, rows)
                        .narrow(1, left, columns)
                        .narrow(2, head * channels, channels)
                        .copy_(&inside);
                }
            }
        }
        output
    }

    fn random(size: &[i64]) -> Tensor {
        Tensor::randn(size, CPU).to_kind(Kind::BFloat16)
    }

    /// Random `qkv` and `outside`, and whether this machine supports the kernel.
    fn inputs(shape: &AttentionShape) -> (Tensor, Tensor, bool) {
        tch::manual_seed(5);
        let channels = 3 * shape.channels() as i64;
        let [height, width] = shape.image.map(|side| side as i64);
        let qkv = random(&[shape.batch as i64, height, width, channels]);
        let supported = is_supported(&qkv, shape.head_channels as i64);
        if !supported {
            skipped(NO_AVX512_BF16);
        }
        (qkv, random(&[channels]), supported)
    }

    fn check(found: &Tensor, expected: &Tensor, what: &str) {
        let error = (found.to_kind(Kind::Float) - expected).abs().max() / expected.abs().max();
        let error = error.double_value(&[]);
        assert!(error <= TOLERANCE, "{what}: {error}");
    }

    #[test]
    fn decomposed_positions_equal_the_definition() {
        for (image, window, head_channels) in [
            ([20, 20], [20, 20], 64),
            ([10, 17], [14, 14], 80),
            ([3, 90], [3, 90], 32),
            ([32, 32], [32, 32], 32),
        ] {
            let shape =
                AttentionShape { batch: 1, image, window, heads: 2, head_channels, order: QkvOrder::ByRole };
            let (qkv, outside, supported) = inputs(&shape);
            if !supported {
                return;
            }
            let [window_h, window_w] = window.map(|side| side as i64);
            let channels = head_channels as i64;
            let along_h = random(&[window_h, window_h, channels]) * 0.1;
            let along_w = random(&[window_w, window_w, channels]) * 0.1;
            let position = PositionBias::Decomposed { along_h: &along_h, along_w: &along_w };
            let found = attention(&shape, &qkv, &outside, position);
            let [along_h, along_w] = [along_h, along_w].map(|table| table.to_kind(Kind::Float));
            let bias = |_, query: &Tensor| {
                let query = query.view([window_h, window_w, channels]);
                let by_row = Tensor::einsum("hwc,hkc->hwk", &[&query, &along_h], None::<i64>).unsqueeze(-1);
                let by_column =
                    Tensor::einsum("hwc,wkc->hwk", &[&query, &along_w], None::<i64>).unsqueeze(-2);
                (by_row + by_column).view([window_h * window_w, window_h * window_w])
            };
            let (qkv, outside) = (qkv.to_kind(Kind::Float), outside.to_kind(Kind::Float));
            check(&found, &reference(&shape, &qkv, &outside, bias), &format!("{shape:?}"));
        }
    }

    /// The bias of a cut window from the `table` `[heads, N, N]` of a whole one, as [`PositionBias::Tables`]
    /// has it.
    fn cut_table(shape: &AttentionShape, table: &Tensor, cut: Cut) -> Tensor {
        let Some([rows, columns]) = shape.inside(cut) else { return Tensor::new() };
        let side = shape.window[0];
        let inside: Vec<i64> =
            (0..rows).flat_map(|row| (0..columns).map(move |column| (row * side + column) as i64)).collect();
        let outside: Vec<i64> = (0..(side * side) as i64).filter(|token| !inside.contains(token)).collect();
        let queries = table.index_select(1, &Tensor::from_slice(&inside));
        let of_keys = |keys: &[i64]| queries.index_select(2, &Tensor::from_slice(keys));
        let mut columns = vec![of_keys(&inside)];
        if cut.is_cut() {
            columns
                .push(of_keys(&outside).exp().sum_dim_intlist([-1i64].as_slice(), true, Kind::Float).log());
        }
        Tensor::cat(&columns, -1) * (shape.head_channels as f64).sqrt()
    }

    #[test]
    fn windows_with_a_table_and_their_gradients_equal_the_definition() {
        for (image, window, heads, head_channels) in [
            ([9, 16], 7, 3, 32),
            ([14, 14], 14, 2, 32),
            ([32, 32], 14, 5, 32),
            ([5, 6], 5, 1, 48),
            ([3, 3], 7, 2, 16),
            ([7, 3], 3, 1, 64),
            ([40, 20], 20, 1, 64),
            ([38, 20], 20, 1, 64),
        ] {
            let shape = AttentionShape {
                batch: 2,
                image,
                window: [window; 2],
                heads,
                head_channels,
                order: QkvOrder::ByHead,
            };
            let (qkv, outside, supported) = inputs(&shape);
            if !supported {
                return;
            }
            let tokens = (window * window) as i64;
            let table = Tensor::randn([heads as i64, tokens, tokens], CPU);
            let tables = Cut::ALL.map(|cut| cut_table(&shape, &table, cut));
            let weights = Tensor::randn([2, image[1] as i64, image[0] as i64, shape.channels() as i64], CPU);
            // Swapping rows and columns gives the gradient another memory layout.
            let gradient = |attended: &Tensor, qkv: &Tensor| {
                (attended.to_kind(Kind::Float).transpose(1, 2) * &weights).sum(Kind::Float).backward();
                qkv.grad()
            };
            let exact = qkv.to_kind(Kind::Float).set_requires_grad(true);
            let qkv = qkv.set_requires_grad(true);
            let found = attention(&shape, &qkv, &outside, PositionBias::Tables(&tables));
            let outside = outside.to_kind(Kind::Float);
            let expected = reference(&shape, &exact, &outside, |head, _| table.get(head));
            check(&found, &expected, &format!("{shape:?}"));
            let gradients = [gradient(&found, &qkv), gradient(&expected, &exact)];
            check(&gradients[0], &gradients[1], &format!("gradients, {shape:?}"));
        }
    }

    #[test]
    fn other_types_and_narrow_heads_are_not_supported() {
        let qkv = random(&[1, 2, 2, 96]);
        assert!(!is_supported(&qkv.to_kind(Kind::Float), 32));
        assert!(!is_supported(&random(&[1, 2, 2, 24]), 8));
    }
}
