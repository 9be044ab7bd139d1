//! Common to all trained parts of the network: parameters, optimiser and checkpoint shard.

use std::collections::BTreeMap;

use tch::Tensor;
use tch::nn::VarStore;

use crate::compute::Compute;
use crate::network::segmenter::{DECODER, ENCODER, GENERATOR, SAM_PARTS, Start, load_sam, load_trained};
use crate::training::config::TrainingConfig;
use crate::training::error::TrainingError;
use crate::training::optimise::Optimiser;
use crate::weights::{Tensors, check_sha256, load_strict, sha256_of};

/// The parts of the network, each a separate process in a dataflow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PartName {
    /// MAdapter and image encoder.
    Encoder,
    /// Generator of auxiliary masks.
    Generator,
    /// Prompt encoder, mask decoder and MC-Adapter.
    Decoder,
}

impl PartName {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Encoder, Self::Generator, Self::Decoder];

    /// Name of its shard.
    pub fn name(self) -> &'static str {
        match self {
            Self::Encoder => "encoder",
            Self::Generator => "generator",
            Self::Decoder => "decoder",
        }
    }

    /// Key prefixes of its weights in a SAM checkpoint.
    fn sam_parts(self) -> &'static [&'static str] {
        match self {
            Self::Encoder => ENCODER.sam,
            Self::Generator => GENERATOR.sam,
            Self::Decoder => DECODER.sam,
        }
    }

    /// Key prefixes of its weights in a bundle's adapters.
    fn trained_parts(self) -> &'static [&'static str] {
        match self {
            Self::Encoder => ENCODER.trained,
            Self::Generator => GENERATOR.trained,
            Self::Decoder => DECODER.trained,
        }
    }
}

/// Parameters of a part: SAM's (frozen or not), and those of the paper's modules.
#[derive(Debug)]
pub struct Part {
    name: PartName,
    sam: VarStore,
    trained: VarStore,
    trains_backbone: bool,
    optimiser: Optimiser,
    /// sha256 of SAM's weights if they are frozen.
    frozen: Option<String>,
}

impl Part {
    /// Makes a part. `make` builds its network in a store for SAM's weights and a store for the added ones. Initial
    /// weights depend only on the configuration's seed and the part. Then SAM's weights are loaded and frozen as
    /// configured, and the weights of the bundle from which the training starts are loaded.
    ///
    /// # Errors
    /// Weights that are missing, wrong or damaged; a bundle of another network.
    pub fn new<T>(
        name: PartName,
        config: &TrainingConfig,
        compute: Compute,
        make: impl FnOnce(&VarStore, &VarStore) -> T,
    ) -> Result<(Self, T), TrainingError> {
        tch::manual_seed(config.seed.wrapping_mul(4).wrapping_add(name as u64) as i64);
        let (mut sam, mut trained) = (VarStore::new(compute.device), VarStore::new(compute.device));
        let network = make(&sam, &trained);
        if let Some(weights) = config.model.weights.as_ref().filter(|_| !sam.is_empty()) {
            check_sha256(&weights.file, &weights.sha256)?;
            load_strict(&mut sam, &weights.file, name.sam_parts(), &SAM_PARTS)?;
        }
        let trains_backbone = config.model.train_backbone;
        if let Some(bundle) = config.check_start()? {
            let start = Start { old: &bundle.config, new: &config.model.without_files() };
            load_trained(&bundle, &mut trained, name.trained_parts(), Some(&start))?;
            if trains_backbone && !sam.is_empty() {
                load_sam(&bundle, &mut sam, name.sam_parts())?;
            }
        }
        let mut parameters = prefixed("trained", &trained);
        if trains_backbone {
            parameters.append(&mut prefixed("sam", &sam));
        } else {
            sam.freeze();
            compute.convert(&sam);
        }
        parameters.retain(|_, parameter| parameter.requires_grad());
        let optimiser = Optimiser::new(&config.optimiser, parameters, compute.kind);
        let mut part = Self { name, sam, trained, trains_backbone, optimiser, frozen: None };
        part.frozen = (!trains_backbone).then(|| part.sam_sha256()).transpose()?;
        Ok((part, network))
    }

    /// Which part it is.
    pub fn name(&self) -> PartName {
        self.name
    }

    /// Its trained parameters, by name.
    pub fn parameters(&self) -> &BTreeMap<String, Tensor> {
        self.optimiser.parameters()
    }

    /// The weights that it saves, in fp32: `trained/…`, and `sam/…` if the backbone is trained.
    pub fn weights(&self) -> Tensors {
        let mut weights = prefixed("trained", &self.trained);
        if self.trains_backbone {
            weights.append(&mut prefixed("sam", &self.sam));
        }
        for (name, weight) in &mut weights {
            if let Some(value) = self.optimiser.value(name) {
                *weight = value.shallow_clone();
            }
        }
        weights
    }

    /// Norm of its gradients.
    pub fn gradient_norm(&self) -> f64 {
        self.optimiser.gradient_norm()
    }

    /// Updates its parameters by their gradients, whose norm is `norm`, and clears the gradients.
    pub fn update(&mut self, learning_rate: f64, norm: f64) {
        self.optimiser.step(learning_rate, norm);
    }

    /// Exchanges its parameters with their averages, if there are any. A second call undoes the first.
    pub fn exchange_averages(&mut self) {
        self.optimiser.exchange_averages();
    }

    /// Its complete state: its shard of a checkpoint.
    pub fn shard(&self) -> Tensors {
        let mut tensors = self.weights();
        let state = self.optimiser.state();
        tensors.extend(state.into_iter().map(|(name, tensor)| (format!("optimiser/{name}"), tensor)));
        tensors
    }

    /// Restores a shard.
    ///
    /// # Errors
    /// The entry that is missing, unexpected or of another shape.
    pub fn restore(&mut self, shard: &Tensors) -> Result<(), String> {
        let part = self.name.name();
        let mut state = Tensors::new();
        let own = self.weights();
        let mut found = 0;
        for (name, value) in shard {
            if let Some(name) = name.strip_prefix("optimiser/") {
                state.insert(name.to_owned(), value.shallow_clone());
                continue;
            }
            let fits = own.get(name).is_some_and(|own| own.size() == value.size());
            if !fits {
                return Err(format!("the {part} has no {name} of shape {:?}", value.size()));
            }
            found += 1;
        }
        if found != own.len() {
            let missing = own.keys().find(|name| !shard.contains_key(*name));
            return Err(format!("{} is missing", missing.map_or("", String::as_str)));
        }
        for (name, mut own) in own {
            match self.optimiser.parameters().contains_key(&name) {
                true => self.optimiser.set_value(&name, &shard[&name]),
                false => tch::no_grad(|| own.copy_(&shard[&name])),
            }
        }
        self.optimiser.restore(&state).map_err(|name| format!("optimiser/{name} does not fit the {part}"))
    }

    /// Fails if frozen weights have changed.
    ///
    /// # Errors
    /// [`TrainingError::FrozenChanged`].
    pub fn check_frozen(&self) -> Result<(), TrainingError> {
        match &self.frozen {
            Some(before) if *before != self.sam_sha256()? => {
                Err(TrainingError::FrozenChanged { part: self.name.name() })
            }
            _ => Ok(()),
        }
    }

    fn sam_sha256(&self) -> Result<String, TrainingError> {
        sha256_of(&self.sam.variables().into_iter().collect())
            .map_err(|reason| TrainingError::Shard { path: self.name.name().into(), reason })
    }
}

fn prefixed(prefix: &str, store: &VarStore) -> Tensors {
    store.variables().into_iter().map(|(name, tensor)| (format!("{prefix}/{name}"), tensor)).collect()
}
