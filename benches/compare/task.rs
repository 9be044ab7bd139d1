//! A network with its input, ready for repeated runs.

use std::path::Path;
use std::time::Instant;

use eyre::{Result, WrapErr, ensure, eyre};
use self_prompt_sam::bundle::{AdapterKind, Bundle, BundleConfig, GeneratorKind, NetworkConfig, WeightFile};
use self_prompt_sam::compute::{Compute, Precision};
use self_prompt_sam::network::segmenter::{Decoder, Encoder};
use self_prompt_sam::prompt::SlicePrompts;
use self_prompt_sam::tensor::channels_last;
use self_prompt_sam::training::EncodedGradients;
use self_prompt_sam::weights::{load_strict, sha256_file};
use tch::nn::VarStore;
use tch::{Cuda, Device, Kind, Tensor};

use crate::request::{self, Load};
use crate::support::plain;

/// Taps of LiteMedSAM: four stages and the embedding.
const TAPS: usize = 5;

/// A network, its input and its last output.
pub struct Task {
    network: Network,
    input: Tensor,
    output: Vec<(String, Tensor)>,
}

enum Network {
    Encode(Encoder),
    Train { encoder: Encoder, trained: VarStore, gradients: EncodedGradients },
    Decode { decoder: Box<Decoder>, prompts: Vec<SlicePrompts> },
}

impl Task {
    /// Reads weights and input. Also returns the precision that `auto` stands for.
    pub fn load(load: &Load, device: Device) -> Result<(Self, Precision)> {
        let compute = Compute::new(device, load.precision.parse()?);
        let input = Input::read(&load.input)?;
        let config = plain(load.backbone, load.image_size, load.depth, load.classes);
        let (network, input) = match load.kind {
            request::Kind::Encode => {
                let encoder = Encoder::load(&bundle(config, &load.weights)?, compute)?;
                (Network::Encode(encoder), input.tensor("image")?)
            }
            request::Kind::Train => (training(load, config, compute, &input)?, input.tensor("image")?),
            request::Kind::Decode => {
                // With a generator in the network, the decoder returns the masks unchanged.
                let network = NetworkConfig { generator: GeneratorKind::MultiScale, ..config.network };
                let decoder =
                    Decoder::load(&bundle(BundleConfig { network, ..config }, &load.weights)?, compute)?;
                let prompts = box_prompts(&input.tensor("boxes")?)?;
                // Same layout as our encoder's output.
                (
                    Network::Decode { decoder: Box::new(decoder), prompts },
                    input.tensor("embedding")?.to_kind(compute.kind),
                )
            }
        };
        let task = Self { network, input: input.to_device(device), output: Vec::new() };
        Ok((task, compute.precision()))
    }

    /// Computes once and returns the time, seconds. The device is synchronised before and after.
    pub fn run(&mut self) -> Result<f64> {
        if let Network::Train { trained, .. } = &self.network {
            trained.trainable_variables().iter_mut().for_each(Tensor::zero_grad);
        }
        synchronise(self.input.device());
        let start = Instant::now();
        let output = match &self.network {
            Network::Encode(encoder) => tch::no_grad(|| encoder.forward(&self.input, None))?.embedding,
            Network::Train { encoder, gradients, .. } => {
                let encoded = encoder.forward(&self.input, None)?;
                let embedding = encoded.embedding.detach();
                gradients.backward(encoded)?;
                embedding
            }
            Network::Decode { decoder, prompts } => {
                tch::no_grad(|| decoder.forward(std::slice::from_ref(&self.input), prompts))?
            }
        };
        synchronise(self.input.device());
        let seconds = start.elapsed().as_secs_f64();
        self.output = match &self.network {
            Network::Encode(_) => vec![("embedding".into(), output)],
            Network::Train { trained, .. } => {
                let gradients =
                    trained.variables().into_iter().map(|(name, variable)| (name, variable.grad()));
                gradients.filter(|(_, gradient)| gradient.defined()).collect()
            }
            Network::Decode { .. } => vec![("masks".into(), output)],
        };
        Ok(seconds)
    }

    /// Writes the last output in fp32.
    pub fn save(&self, path: &Path) -> Result<()> {
        let output: Vec<(&str, Tensor)> = self
            .output
            .iter()
            .map(|(name, tensor)| {
                (name.as_str(), tensor.detach().to_device(Device::Cpu).to_kind(Kind::Float).contiguous())
            })
            .collect();
        Tensor::write_safetensors(&output, path).wrap_err_with(|| format!("{}", path.display()))
    }
}

fn synchronise(device: Device) {
    if let Device::Cuda(index) = device {
        Cuda::synchronize(index as i64);
    }
}

fn bundle(mut config: BundleConfig, weights: &Path) -> Result<Bundle> {
    config.weights = WeightFile { file: weights.into(), sha256: sha256_file(weights)? };
    Ok(Bundle { folder: Default::default(), config })
}

/// DFusedAdapters on the frozen backbone, all in the type of `compute`. (fp32 master weights would be the
/// optimiser's.)
fn training(load: &Load, mut config: BundleConfig, compute: Compute, input: &Input) -> Result<Network> {
    config.network.adapter = AdapterKind::DepthFused;
    let adapters = load.trained.as_deref().ok_or_else(|| eyre!("training needs `trained`"))?;
    let (mut sam, mut trained) = (VarStore::new(compute.device), VarStore::new(compute.device));
    let encoder = Encoder::new(&config, &sam, &trained);
    load_strict(&mut sam, &load.weights, &["image_encoder."], &["prompt_encoder.", "mask_decoder."])?;
    load_strict(&mut trained, adapters, &["image_encoder."], &[])?;
    sam.freeze();
    compute.convert(&sam);
    compute.convert(&trained);
    let gradients = EncodedGradients { taps: tap_gradients(input, compute)?, embedding: Vec::new() };
    Ok(Network::Train { encoder, trained, gradients })
}

/// Gradients w.r.t. the taps, in the type and memory layout of the taps.
fn tap_gradients(input: &Input, compute: Compute) -> Result<Vec<Tensor>> {
    let of_tap = |number| {
        let gradient = input.tensor(&format!("gradient_{number}"))?;
        let image = match gradient.size()[..] {
            [slices, tokens, channels] => {
                let side = tokens.isqrt();
                gradient.view([slices, side, side, channels]).permute([0, 3, 1, 2])
            }
            _ => channels_last(&gradient),
        };
        Ok(compute.receive(&image))
    };
    (0..TAPS).map(of_tap).collect()
}

/// Boxes `[D, N, 4]` as prompts; every class is in every slice.
fn box_prompts(boxes: &Tensor) -> Result<Vec<SlicePrompts>> {
    let values: Vec<f32> = boxes.flatten(0, -1).try_into()?;
    let classes = boxes.size().get(1).copied().unwrap_or_default() as usize;
    ensure!(classes > 0, "boxes of shape {:?}", boxes.size());
    let (corners, _) = values.as_chunks::<4>();
    let slice = |boxes: &[[f32; 4]]| SlicePrompts {
        labels: vec![1.0; classes],
        points: None,
        more_points: None,
        boxes: Some(boxes.to_vec()),
        masks: None,
    };
    Ok(corners.chunks(classes).map(slice).collect())
}

/// Named tensors of a safetensors file.
struct Input(Vec<(String, Tensor)>);

impl Input {
    fn read(path: &Path) -> Result<Self> {
        Ok(Self(Tensor::read_safetensors(path).wrap_err_with(|| format!("{}", path.display()))?))
    }

    fn tensor(&self, name: &str) -> Result<Tensor> {
        let found = self.0.iter().find(|(key, _)| key == name);
        found.map(|(_, tensor)| tensor.shallow_clone()).ok_or_else(|| eyre!("the input has no `{name}`"))
    }
}
