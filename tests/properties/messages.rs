//! The largest message of every edge, as a configuration implies it, is the largest one that the nodes send.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use arrow::array::Array;
use proptest::prelude::*;
use self_prompt_sam::bundle::{
    Backbone, Bundle, BundleConfig, Dataflow, NetworkConfig, Plane, PointRule, PromptConfig,
};
use self_prompt_sam::compute::{Compute, Precision};
use self_prompt_sam::message::{SliceHeader, WireKind, encode_prompts};
use self_prompt_sam::network::segmenter::{
    AuxiliaryGenerator, Decoder, Encoder, prompt_strategy, prompts_from_masks,
};
use self_prompt_sam::runtime::training::{DecoderLearner, EncoderLearner, GeneratorLearner, Learner};
use self_prompt_sam::runtime::{Assembler, Emit, Input, Output, PromptStage, Stage as Node, Window};
use self_prompt_sam::training::{Stage, TrainingConfig};
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

const NAMES: [&str; 9] = [
    "slices",
    "labels",
    "features",
    "embedding",
    "aux_masks",
    "prompts",
    "features_grad",
    "embedding_grad",
    "logits",
];

/// What was sent.
struct Sent {
    outputs: BTreeSet<String>,
    messages: Vec<Output>,
}

impl Sent {
    fn new() -> Self {
        Self { outputs: NAMES.map(String::from).into(), messages: Vec::new() }
    }

    fn by<R>(&mut self, work: impl FnOnce(&mut Emit<'_>) -> R) -> R {
        let mut sink = |output| self.messages.push(output);
        work(&mut Emit::new(&self.outputs, &mut sink))
    }

    /// The window on these inputs.
    fn window(&self, inputs: &[Input]) -> Window {
        let mut assembler = Assembler::new(inputs.to_vec());
        let mut windows = self.messages.iter().filter_map(|message| {
            let input = inputs.iter().find(|input| input.name == message.output)?;
            assembler.add(input, message.header.clone(), &message.array).unwrap()
        });
        windows.next().unwrap()
    }

    /// Bytes of the messages, by output.
    fn bytes(&self) -> BTreeMap<&'static str, BTreeSet<usize>> {
        by_name(
            self.messages
                .iter()
                .map(|message| (message.output, message.array.to_data().get_slice_memory_size().unwrap())),
        )
    }
}

fn by_name(messages: impl Iterator<Item = (&'static str, usize)>) -> BTreeMap<&'static str, BTreeSet<usize>> {
    let mut all: BTreeMap<_, BTreeSet<usize>> = BTreeMap::new();
    for (name, bytes) in messages {
        all.entry(name).or_default().insert(bytes);
    }
    all
}

fn predicted(
    config: &BundleConfig,
    dataflow: Dataflow,
    compute: Compute,
) -> BTreeMap<&'static str, BTreeSet<usize>> {
    let edges = config.edges(dataflow, compute.kind.elt_size_in_bytes());
    by_name(edges.iter().map(|edge| (edge.name, edge.bytes)))
}

/// Slices `[D, M, H, W]` and labels `[D, H, W]` of a window.
fn window(config: &BundleConfig) -> (SliceHeader, Tensor, Tensor) {
    let [height, width] = config.patch.plane.size().map(|size| size as i64);
    let (depth, modalities) = (config.patch.depth as i64, config.modalities.len() as i64);
    let header = SliceHeader {
        session_id: "run".into(),
        segment_id: 0,
        attempt: 0,
        seq: 0,
        count: depth,
        case_id: "case".into(),
        classes: config.classes.len() as i64,
        level: None,
        slices: None,
        image_size: None,
        covered: None,
        times: Default::default(),
        shape: Vec::new(),
    };
    let slices = Tensor::randn([depth, modalities, height, width], (Kind::Float, Device::Cpu));
    let labels = Tensor::zeros([depth, height, width], (Kind::Uint8, Device::Cpu));
    (header, slices, labels)
}

/// A window on its way through the nodes of a training.
fn trained(config: &TrainingConfig, compute: Compute) -> Sent {
    let bundle = config.model.without_files();
    let (header, slices, labels) = window(&bundle);
    let mut sent = Sent::new();
    sent.by(|emit| emit.slices("slices", &header, &slices, WireKind::Float32, None));
    sent.by(|emit| emit.slices("labels", &header, &labels, WireKind::UInt8, None));
    let mut learn = |learner: &mut dyn Learner| {
        let window = sent.window(learner.tasks(Stage::Full)[0]);
        sent.by(|emit| learner.learn(0, &window, Stage::Full, 1.0, emit)).unwrap();
    };
    learn(&mut EncoderLearner::new(config, compute).unwrap());
    learn(&mut GeneratorLearner::new(config, compute).unwrap());
    let mut extractor = PromptStage::new(prompt_strategy(&Bundle { folder: "".into(), config: bundle }));
    let masks = sent.window(&extractor.inputs()[..1]);
    sent.by(|emit| extractor.process(masks, emit)).unwrap();
    let mut decoder = DecoderLearner::new(config, compute).unwrap();
    let window = sent.window(decoder.tasks(Stage::Full)[0]);
    sent.by(|emit| decoder.learn(0, &window, Stage::Full, 1.0, emit)).unwrap();
    sent
}

/// A window on its way through the network, with the messages of the nodes of a segmentation.
fn segmented(config: &BundleConfig) -> Sent {
    let (header, slices, labels) = window(config);
    let (sam, trained) = (VarStore::new(Device::Cpu), VarStore::new(Device::Cpu));
    let encoded = Encoder::new(config, &sam, &trained).forward(&slices, None).unwrap();
    let masks = AuxiliaryGenerator::new(config, &trained).unwrap().forward(&encoded.taps).unwrap();
    let strategy = prompt_strategy(&Bundle { folder: "".into(), config: config.clone() });
    let prompts = prompts_from_masks(&strategy, &masks.detach()).unwrap();
    let for_decoder = encoded.for_decoder();
    let logits = Decoder::new(config, &sam, &trained).forward(&for_decoder, &prompts).unwrap();
    let mut sent = Sent::new();
    let mut send = |name, tensor: &Tensor, kind, level| {
        sent.by(|emit| emit.slices(name, &header, tensor, kind, level));
    };
    send("slices", &slices, WireKind::Float32, None);
    send("labels", &labels, WireKind::UInt8, None);
    let levels = encoded.taps.len() as i64;
    for (level, tap) in (0..).zip(&encoded.taps) {
        send("features", tap, WireKind::Float32, Some((level, levels)));
    }
    let levels = for_decoder.len() as i64;
    for (level, tensor) in (0..).zip(&for_decoder) {
        send("embedding", tensor, WireKind::Float32, Some((level, levels)));
    }
    send("aux_masks", &masks, WireKind::Float32, None);
    send("logits", &logits, WireKind::Float32, None);
    for prompts in &prompts {
        sent.by(|emit| emit.array("prompts", header.clone(), encode_prompts(prompts)));
    }
    sent
}

fn config() -> impl Strategy<Value = TrainingConfig> {
    let backbones = prop_oneof![Just(Backbone::VitTiny), Just(Backbone::LiteMedsam)];
    let prompts = (any::<bool>(), any::<bool>(), any::<bool>());
    let backbones = (backbones, any::<bool>());
    (backbones, 1i64..3, prompts, 2usize..6, 1usize..4, [20usize..70, 20usize..70]).prop_map(
        |((backbone, finer_features), size, (point, boxes, mask), classes, modalities, plane)| {
            let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/hippocampus-scratch.yml");
            let mut config = TrainingConfig::open(&shipped).unwrap();
            let point = (point || !boxes && !mask).then_some(PointRule::DistanceTransform);
            let model = &mut config.model;
            model.network = NetworkConfig {
                prompts: PromptConfig { point, boxes, mask },
                finer_features,
                ..NetworkConfig::full(backbone, 32 * size)
            };
            model.classes = (0..classes).map(|class| class.to_string()).collect();
            model.modalities = (0..modalities).map(|modality| modality.to_string()).collect();
            (model.patch.depth, model.patch.plane) = (2, Plane::Window(plane));
            config
        },
    )
}

proptest! {
    // Each case makes two networks.
    #![proptest_config(ProptestConfig::with_cases(4))]

    #[test]
    fn messages_have_the_bytes_that_the_configuration_implies(config in config(), is_bf16 in any::<bool>()) {
        let model = config.model.without_files();
        let precision = if is_bf16 { Precision::Bf16 } else { Precision::Fp32 };
        let compute = Compute::new(Device::Cpu, precision);
        let sent = trained(&config, compute).bytes();
        prop_assert_eq!(sent, predicted(&model, Dataflow::Training, compute));
        let sent = tch::no_grad(|| segmented(&model)).bytes();
        prop_assert_eq!(sent, predicted(&model, Dataflow::Segmentation, Compute::fp32(Device::Cpu)));
    }
}
