//! SGD with momentum and AdamW as in `torch.optim`, with a state that can be saved and restored exactly (tch's
//! optimisers do not expose theirs), and gradient clipping by norm (`torch.nn.utils.clip_grad_norm_`).
//!
//! If the network computes in bf16, an update is far smaller than the last bit of a parameter. Every such parameter
//! therefore has an fp32 master, which is updated; the network's parameter is the rounded master.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// Added to the norm before a gradient is divided by it.
const CLIP_EPS: f64 = 1e-6;

/// Optimiser of a part of the network. Every part clips by the norm of its own gradients, in a dataflow as in one
/// process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptimiserConfig {
    /// Update rule.
    #[serde(with = "serde_yaml::with::singleton_map")]
    pub rule: Rule,
    /// Largest norm of a part's gradients; absent = no clipping. nnU-Net uses 12.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip_norm: Option<f64>,
    /// Decay of the running averages of the parameters, such as 0.999; validations and the bundle use the averages.
    /// Absent = no averages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub average: Option<f64>,
}

/// How a gradient becomes an update.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Rule {
    /// `torch.optim.SGD`.
    Sgd {
        /// 0.99 in the paper.
        momentum: f64,
        /// Whether to use Nesterov momentum, as nnU-Net does.
        nesterov: bool,
        /// Weight decay (L2), 3e-5 in the paper.
        weight_decay: f64,
    },
    /// `torch.optim.AdamW`.
    #[serde(rename = "adamw")]
    AdamW {
        /// Decay of the two moments; torch's default is `[0.9, 0.999]`.
        betas: [f64; 2],
        /// Added to the denominator; torch's default is 1e-8.
        eps: f64,
        /// Decoupled weight decay, per unit of the learning rate; torch's default is 0.01.
        weight_decay: f64,
    },
}

impl OptimiserConfig {
    pub(crate) fn check(&self) -> Result<(), String> {
        let unit = |value: f64| (0.0..1.0).contains(&value);
        let usable = |value: f64| value >= 0.0 && value.is_finite();
        let valid = match self.rule {
            Rule::Sgd { momentum, weight_decay, .. } => unit(momentum) && usable(weight_decay),
            Rule::AdamW { betas, eps, weight_decay } => {
                betas.into_iter().all(unit) && usable(eps) && usable(weight_decay)
            }
        };
        if !valid {
            Err("optimiser.rule: momentum and betas must lie in 0 to 1, the rest must be finite and not negative"
                .into())
        } else if self.clip_norm.is_some_and(|norm| !(norm > 0.0 && norm.is_finite())) {
            Err("optimiser.clip_norm must be positive".into())
        } else if self.average.is_some_and(|decay| !unit(decay)) {
            Err("optimiser.average must lie in 0 to 1".into())
        } else {
            Ok(())
        }
    }
}

/// Parameters by name, with the optimiser's state of each.
#[derive(Debug)]
pub struct Optimiser {
    config: OptimiserConfig,
    parameters: BTreeMap<String, Tensor>,
    /// fp32 masters of the parameters that the network holds in another type.
    masters: BTreeMap<String, Tensor>,
    /// Moments of the parameters that have been updated.
    moments: BTreeMap<String, Moments>,
    /// Averages of the parameters that have been updated, if configured.
    averages: BTreeMap<String, Tensor>,
}

#[derive(Debug)]
struct Moments {
    /// Number of updates so far.
    steps: i64,
    first: Tensor,
    /// AdamW only.
    second: Option<Tensor>,
}

impl Optimiser {
    /// Takes `parameters` in fp32, shared with the network, and converts them to `kind`.
    pub fn new(config: &OptimiserConfig, mut parameters: BTreeMap<String, Tensor>, kind: Kind) -> Self {
        let mut masters = BTreeMap::new();
        if kind != Kind::Float {
            for (name, parameter) in &mut parameters {
                let master = parameter.detach();
                parameter.set_data(&master.to_kind(kind));
                masters.insert(name.clone(), master);
            }
        }
        Self {
            config: config.clone(),
            parameters,
            masters,
            moments: BTreeMap::new(),
            averages: BTreeMap::new(),
        }
    }

    /// The parameters as the network holds them.
    pub fn parameters(&self) -> &BTreeMap<String, Tensor> {
        &self.parameters
    }

    /// The fp32 value of a parameter.
    pub fn value(&self, name: &str) -> Option<&Tensor> {
        self.masters.get(name).or_else(|| self.parameters.get(name))
    }

    /// Sets a parameter to an fp32 value of the same shape.
    pub fn set_value(&mut self, name: &str, value: &Tensor) {
        tch::no_grad(|| {
            for parameters in [&mut self.masters, &mut self.parameters] {
                if let Some(parameter) = parameters.get_mut(name) {
                    parameter.copy_(value);
                }
            }
        });
    }

    /// Norm of all gradients together; 0 if there are none.
    pub fn gradient_norm(&self) -> f64 {
        let gradients = self.parameters.values().map(Tensor::grad).filter(Tensor::defined);
        let norms: Vec<Tensor> =
            gradients.map(|gradient| gradient.norm_scalaropt_dtype(2.0, Kind::Float)).collect();
        if norms.is_empty() { 0.0 } else { Tensor::stack(&norms, 0).norm().double_value(&[]) }
    }

    /// Updates every parameter that has a gradient, and clears the gradients. `norm` is [`Optimiser::gradient_norm`]
    /// and must be finite.
    pub fn step(&mut self, learning_rate: f64, norm: f64) {
        let scale = self.config.clip_norm.map_or(1.0, |most| (most / (norm + CLIP_EPS)).min(1.0));
        let rule = self.config.rule;
        tch::no_grad(|| {
            for (name, of_network) in &mut self.parameters {
                let gradient = of_network.grad();
                if !gradient.defined() {
                    continue;
                }
                let mut gradient = gradient.to_kind(Kind::Float);
                let master = self.masters.get_mut(name);
                let rounded = master.is_some();
                let mut parameter = master.unwrap_or(of_network).shallow_clone();
                if scale < 1.0 {
                    gradient *= scale;
                }
                match rule {
                    Rule::Sgd { momentum, nesterov, weight_decay } => {
                        let gradient = &gradient + &parameter * weight_decay;
                        let moments =
                            self.moments.entry(name.clone()).or_insert_with(|| Moments::new(&gradient));
                        // torch initialises the buffer with the first gradient, which equals a zero buffer times
                        // momentum plus the gradient.
                        moments.first *= momentum;
                        moments.first += &gradient;
                        moments.steps += 1;
                        let update = match nesterov {
                            true => gradient + &moments.first * momentum,
                            false => moments.first.shallow_clone(),
                        };
                        parameter -= update * learning_rate;
                    }
                    Rule::AdamW { betas: [beta1, beta2], eps, weight_decay } => {
                        let moments =
                            self.moments.entry(name.clone()).or_insert_with(|| Moments::new(&gradient));
                        let second = moments.second.get_or_insert_with(|| gradient.zeros_like());
                        moments.steps += 1;
                        parameter *= 1.0 - learning_rate * weight_decay;
                        let _ = moments.first.lerp_(&gradient, 1.0 - beta1);
                        *second *= beta2;
                        *second += gradient.square() * (1.0 - beta2);
                        let steps = moments.steps as f64;
                        let (bias1, bias2) = (1.0 - beta1.powf(steps), 1.0 - beta2.powf(steps));
                        let denominator = second.sqrt() / bias2.sqrt() + eps;
                        parameter -= &moments.first / denominator * (learning_rate / bias1);
                    }
                }
                if rounded {
                    of_network.copy_(&parameter);
                }
                if let Some(decay) = self.config.average {
                    let steps = self.moments.get(name).map_or(1, |moments| moments.steps) as f64;
                    let average = self.averages.entry(name.clone()).or_insert_with(|| parameter.copy());
                    // Young averages forget faster, so that they do not hold on to the initial weights.
                    let _ = average.lerp_(&parameter, 1.0 - decay.min(steps / (steps + 9.0)));
                }
            }
        });
        self.clear_gradients();
    }

    /// Sets the gradients to zero.
    pub fn clear_gradients(&mut self) {
        self.parameters.values_mut().for_each(Tensor::zero_grad);
    }

    /// Exchanges every parameter that has an average with it. A second call undoes the first.
    pub fn exchange_averages(&mut self) {
        for (name, average) in std::mem::take(&mut self.averages) {
            let value = self.value(&name).map(|value| value.detach().copy());
            self.set_value(&name, &average);
            self.averages.extend(value.map(|value| (name, value)));
        }
    }

    /// The complete state by name: `<parameter>/steps`, `/first`, `/second` and `/average`.
    pub fn state(&self) -> BTreeMap<String, Tensor> {
        let mut state = BTreeMap::new();
        for (name, Moments { steps, first, second }) in &self.moments {
            state.insert(format!("{name}/steps"), Tensor::from_slice(&[*steps]));
            state.insert(format!("{name}/first"), first.shallow_clone());
            if let Some(second) = second {
                state.insert(format!("{name}/second"), second.shallow_clone());
            }
        }
        let averages =
            self.averages.iter().map(|(name, average)| (format!("{name}/average"), average.shallow_clone()));
        state.extend(averages);
        state
    }

    /// Restores a `state`.
    ///
    /// # Errors
    /// The name of an entry that belongs to no parameter, is incomplete or has another shape.
    pub fn restore(&mut self, state: &BTreeMap<String, Tensor>) -> Result<(), String> {
        let (mut moments, mut averages) = (BTreeMap::new(), BTreeMap::new());
        let is_adam = matches!(self.config.rule, Rule::AdamW { .. });
        for (key, value) in state {
            let Some((name, entry)) = key.rsplit_once('/') else { return Err(key.clone()) };
            let parameter = self.parameters.get(name).ok_or_else(|| key.clone())?;
            let of = |entry: &str| {
                let tensor =
                    state.get(&format!("{name}/{entry}")).ok_or_else(|| format!("{name}/{entry}"))?;
                match tensor.size() == parameter.size() && tensor.kind() == Kind::Float {
                    true => Ok(tensor.to_device(parameter.device()).copy()),
                    false => Err(format!("{name}/{entry}")),
                }
            };
            if entry == "average" {
                averages.insert(name.to_owned(), of("average")?);
            } else if entry == "steps" {
                let steps = i64::try_from(value.view(-1).get(0)).map_err(|_| key.clone())?;
                let second = is_adam.then(|| of("second")).transpose()?;
                moments.insert(name.to_owned(), Moments { steps, first: of("first")?, second });
            }
        }
        self.moments = moments;
        self.averages = averages;
        Ok(())
    }
}

impl Moments {
    fn new(gradient: &Tensor) -> Self {
        Self { steps: 0, first: gradient.zeros_like(), second: None }
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    fn optimiser(rule: Rule, start: &Tensor) -> Optimiser {
        let config = OptimiserConfig { rule, clip_norm: Some(1.0), average: Some(0.9) };
        let parameter = start.copy().set_requires_grad(true);
        Optimiser::new(&config, BTreeMap::from([("p".into(), parameter)]), Kind::Float)
    }

    /// One step of gradient descent on `|p - target|²`.
    fn descend(optimiser: &mut Optimiser, target: f64) {
        (&optimiser.parameters["p"] - target).square().sum(Kind::Float).backward();
        let norm = optimiser.gradient_norm();
        optimiser.step(0.05, norm);
    }

    #[test]
    fn a_restored_optimiser_goes_on_as_if_it_had_never_stopped() {
        tch::manual_seed(1);
        let start = Tensor::randn([3, 4], (Kind::Float, Device::Cpu));
        for rule in [
            Rule::Sgd { momentum: 0.99, nesterov: true, weight_decay: 3e-5 },
            Rule::AdamW { betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.01 },
        ] {
            let mut whole = optimiser(rule, &start);
            (0..10).for_each(|step| descend(&mut whole, f64::from(step)));
            let mut first = optimiser(rule, &start);
            (0..5).for_each(|step| descend(&mut first, f64::from(step)));
            let mut second = optimiser(rule, &first.parameters["p"].detach());
            second.restore(&first.state()).unwrap();
            (5..10).for_each(|step| descend(&mut second, f64::from(step)));
            assert!(whole.parameters["p"].equal(&second.parameters["p"]), "{rule:?}");
            assert!(whole.averages["p"].equal(&second.averages["p"]), "{rule:?}");
        }
    }

    #[test]
    fn a_parameter_without_gradient_is_left_alone() {
        let start = Tensor::ones([2], (Kind::Float, Device::Cpu));
        let mut optimiser =
            optimiser(Rule::AdamW { betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.5 }, &start);
        let norm = optimiser.gradient_norm();
        optimiser.step(0.1, norm);
        assert_eq!(norm, 0.0);
        assert!(optimiser.parameters["p"].equal(&start) && optimiser.state().is_empty());
    }

    #[test]
    fn steps_below_the_last_bit_of_bf16_add_up() {
        let start = Tensor::ones([2], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let rule = Rule::Sgd { momentum: 0.0, nesterov: false, weight_decay: 0.0 };
        let config = OptimiserConfig { rule, clip_norm: None, average: Some(0.5) };
        let parameters = BTreeMap::from([("p".into(), start)]);
        let mut optimiser = Optimiser::new(&config, parameters, Kind::BFloat16);
        for _ in 0..100 {
            optimiser.parameters["p"].sum(Kind::Float).backward();
            let norm = optimiser.gradient_norm();
            optimiser.step(1e-3, norm);
        }
        let parameter = &optimiser.parameters["p"];
        assert_eq!(parameter.kind(), Kind::BFloat16);
        assert!((parameter.double_value(&[0]) - 0.9).abs() < 0.004, "{parameter:?}");
        assert!((optimiser.value("p").unwrap().double_value(&[1]) - 0.9).abs() < 1e-5);
        // With a decay of 1/2 the average of a steady movement is one step behind.
        optimiser.exchange_averages();
        assert!((optimiser.value("p").unwrap().double_value(&[1]) - 0.901).abs() < 1e-5);
        assert!((optimiser.parameters["p"].double_value(&[0]) - 0.901).abs() < 0.004);
        optimiser.exchange_averages();
        assert!((optimiser.value("p").unwrap().double_value(&[1]) - 0.9).abs() < 1e-5);
    }

    #[test]
    fn a_state_of_something_else_is_refused_by_name() {
        let start = Tensor::ones([2], (Kind::Float, Device::Cpu));
        let rule = Rule::Sgd { momentum: 0.9, nesterov: false, weight_decay: 0.0 };
        let state = |name: &str, shape: &[i64]| {
            BTreeMap::from([
                (format!("{name}/steps"), Tensor::from_slice(&[1i64])),
                (format!("{name}/first"), Tensor::zeros(shape, (Kind::Float, Device::Cpu))),
            ])
        };
        assert_eq!(optimiser(rule, &start).restore(&state("q", &[2])).unwrap_err(), "q/first");
        assert_eq!(optimiser(rule, &start).restore(&state("p", &[3])).unwrap_err(), "p/first");
        assert!(optimiser(rule, &start).restore(&state("p", &[2])).is_ok());
    }
}
