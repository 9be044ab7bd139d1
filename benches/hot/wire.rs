//! Message formats: tensors and prompts to Arrow arrays and back.

use criterion::{Criterion, Throughput};
use ndarray::Array3;
use self_prompt_sam::message::{WireKind, copy_slices, decode_prompts, encode_prompts, encode_tensor};
use self_prompt_sam::prompt::SlicePrompts;
use tch::{Device, Kind, Tensor};

use crate::{CLASSES, checked};

/// Shape of a slice's embedding.
const EMBEDDING: [i64; 3] = [256, 64, 64];
/// Side of the mask prompts for this embedding.
const MASK: usize = 256;

/// `wire/encode_tensor/…` by types, `wire/copy_slices/…` by types, `wire/encode_prompts`, `wire/decode_prompts`.
pub fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("wire");
    let values: i64 = EMBEDDING.iter().product();
    let embedding = Tensor::randn(EMBEDDING, (Kind::Float, Device::Cpu));
    for (types, kind, wire, bytes) in [
        ("fp32-float32", Kind::Float, WireKind::Float32, size_of::<f32>()),
        ("bf16-float16", Kind::BFloat16, WireKind::Float16, size_of::<u16>()),
    ] {
        group.throughput(Throughput::Bytes(values as u64 * bytes as u64));
        let embedding = embedding.to_kind(kind);
        group.bench_function(format!("encode_tensor/{types}"), |bencher| {
            bencher.iter(|| encode_tensor(&embedding, wire));
        });
        let array = encode_tensor(&embedding, wire);
        let window = Tensor::zeros([&[1], EMBEDDING.as_slice()].concat(), (kind, Device::Cpu));
        group.bench_function(format!("copy_slices/{types}"), |bencher| {
            bencher.iter(|| checked(copy_slices(&array, &EMBEDDING, &window, 0..1)));
        });
    }
    let prompts = SlicePrompts {
        labels: vec![1.0; CLASSES],
        points: Some(vec![[1.0, 2.0]; CLASSES]),
        more_points: None,
        boxes: Some(vec![[1.0, 2.0, 3.0, 4.0]; CLASSES]),
        masks: Some(Array3::from_elem((CLASSES, MASK, MASK), 0.5)),
    };
    let array = encode_prompts(&prompts);
    group.throughput(Throughput::Bytes((CLASSES * MASK * MASK * size_of::<f32>()) as u64));
    group.bench_function("encode_prompts", |bencher| bencher.iter(|| encode_prompts(&prompts)));
    group.bench_function("decode_prompts", |bencher| {
        bencher.iter(|| checked(decode_prompts(&array, CLASSES, [MASK, MASK])));
    });
}
