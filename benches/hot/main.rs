//! Criterion benches of the most expensive components with random weights: `cargo bench --bench hot -- FILTER`. The
//! filter is a part of a name such as `encoder/vit_b-1024/bf16`; `--list` lists the names.
//!
//! They run on the CPU with `SPSAM_THREADS` threads (default: libtorch's choice).

mod decoder;
mod encoder;
mod generator;
mod prompts;
#[path = "../support/mod.rs"]
mod support;
mod wire;

use std::fmt::Display;
use std::process::ExitCode;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, SamplingMode};
use self_prompt_sam::bundle::{Backbone, GeneratorKind, NetworkConfig};
use self_prompt_sam::compute::{Compute, Precision};
use self_prompt_sam::runtime::{exit_code, prepare};
use tch::Device;

/// Slices in a window.
const DEPTH: usize = 8;
/// Classes, background included.
const CLASSES: usize = 4;

fn main() -> ExitCode {
    exit_code(|| {
        prepare()?;
        let mut criterion = Criterion::default().configure_from_args();
        encoder::bench(&mut criterion);
        decoder::bench(&mut criterion);
        generator::bench(&mut criterion);
        prompts::bench(&mut criterion);
        wire::bench(&mut criterion);
        criterion.final_summary();
        Ok(())
    })
}

/// A group for computations of tenths of a second to seconds: few samples with one run each.
fn heavy<'a>(criterion: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group
        .sample_size(10)
        .sampling_mode(SamplingMode::Flat)
        .warm_up_time(Duration::from_millis(1))
        .measurement_time(Duration::from_secs(3));
    group
}

/// The precisions in which networks are timed.
fn precisions() -> [Compute; 2] {
    [Precision::Fp32, Precision::Bf16].map(|precision| Compute::new(Device::Cpu, precision))
}

/// Name of a network in benches.
fn name_of(backbone: Backbone, image_size: i64, compute: Compute) -> String {
    let backbone = match backbone {
        Backbone::VitB => "vit_b",
        Backbone::VitL => "vit_l",
        Backbone::VitH => "vit_h",
        Backbone::VitTiny => "vit_tiny",
        Backbone::LiteMedsam => "lite_medsam",
    };
    format!("{backbone}-{image_size}/{}", compute.precision().name())
}

/// The network with a prompt generator, whose decoder returns its masks unchanged.
fn prompted(network: NetworkConfig) -> NetworkConfig {
    NetworkConfig { generator: GeneratorKind::MultiScale, ..network }
}

/// The result; panics on an error, which would be fast to compute and give a meaningless time.
fn checked<T, E: Display>(result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| panic!("{error}"))
}
