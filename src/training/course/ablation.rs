//! The paper's ablation (Table 3): the same data, seed and schedule for several variants of the network.

use std::fmt::Write as _;
use std::str::FromStr;
use std::sync::atomic::AtomicBool;

use serde::Serialize;
use thiserror::Error;

use super::run::{Outcome, run};
use crate::bundle::{AdapterKind, GeneratorKind, NetworkConfig};
use crate::compute::Compute;
use crate::files::write_atomically;
use crate::training::config::TrainingConfig;
use crate::training::error::TrainingError;
use crate::training::record::History;
use crate::training::trainer::DiceFigures;

/// A row of the paper's Table 3, 1 to 9.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Variant(u8);

/// The name is not one of S1 to S9.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("`{0}` is not one of S1 to S9")]
pub struct UnknownVariant(String);

impl FromStr for Variant {
    type Err = UnknownVariant;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = text.trim().strip_prefix(['S', 's']).and_then(|number| number.parse().ok());
        number.filter(|number| (1..=9).contains(number)).map(Self).ok_or_else(|| UnknownVariant(text.into()))
    }
}

impl Variant {
    /// All rows.
    pub const ALL: [Self; 9] =
        [Self(1), Self(2), Self(3), Self(4), Self(5), Self(6), Self(7), Self(8), Self(9)];

    /// Its name, `S1` to `S9`.
    pub fn name(self) -> String {
        format!("S{}", self.0)
    }

    /// Its parts, in the paper's words.
    pub fn parts(self) -> &'static str {
        match self.0 {
            1 => "stacked CNNs prompt generator",
            2 => "MSPGenerator",
            3 => "MSPGenerator + vAdapter",
            4 => "MSPGenerator + vAdapter, depth MLPs before it",
            5 => "MSPGenerator + vAdapter, depth MLPs after it",
            6 => "MSPGenerator + DFusedAdapter",
            7 => "MSPGenerator + DFusedAdapter + DPosEmbed",
            8 => "MSPGenerator + DFusedAdapter + DPosEmbed + MAdapter",
            _ => "full model: S8 + MC-Adapter",
        }
    }

    /// `network` with only the parts of this row.
    pub fn of(self, network: &NetworkConfig) -> NetworkConfig {
        let Self(row) = self;
        NetworkConfig {
            adapter: match row {
                1 | 2 => AdapterKind::None,
                3 => AdapterKind::Vanilla,
                4 => AdapterKind::DepthBefore,
                5 => AdapterKind::DepthAfter,
                _ => AdapterKind::DepthFused,
            },
            depth_position: row >= 7,
            modality_adapter: row >= 8,
            generator: if row == 1 { GeneratorKind::Stacked } else { GeneratorKind::MultiScale },
            classes_adapter: row >= 9,
            classes_adapter_prompts: row >= 9 && network.classes_adapter_prompts,
            ..network.clone()
        }
    }
}

/// The result of a variant on all validation cases.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AblationRow {
    /// `S1` to `S9`.
    pub variant: String,
    /// Its parts.
    pub parts: String,
    /// Steps made.
    pub steps: u64,
    /// Training time, seconds.
    pub seconds: f64,
    /// Dice of the decoder's output.
    pub output: DiceFigures,
    /// Dice of the auxiliary masks.
    pub auxiliary: DiceFigures,
}

/// Trains `variants` one after another, each in a folder below `config.output`, and writes `ablation.md` and
/// `ablation.json` after each. An unfinished variant is continued; a finished one is not trained again. `None` if
/// `stop` was set meanwhile.
///
/// # Errors
/// Any [`TrainingError`] of a run.
pub fn ablate(
    config: &TrainingConfig,
    variants: &[Variant],
    compute: Compute,
    stop: &AtomicBool,
) -> Result<Option<Vec<AblationRow>>, TrainingError> {
    let mut rows = Vec::new();
    for &variant in variants {
        let mut of_variant = config.clone();
        of_variant.output = config.output.join(variant.name());
        of_variant.model.network = variant.of(&config.model.network);
        of_variant.model.name = format!("{}-{}", config.model.name, variant.name());
        tracing::info!("{}: {}", variant.name(), variant.parts());
        let begun = !of_variant.checkpoints().is_empty();
        if begun {
            of_variant.check_resumed(None)?;
        }
        let steps = config.schedule.steps();
        let history = || History::read(&of_variant.output.join("history.json"), steps);
        let is_finished = |history: &History| {
            history.validations.iter().any(|validation| validation.complete && validation.step == steps)
        };
        if !is_finished(&history()?)
            && matches!(run(&of_variant, compute, begun, stop)?, Outcome::Stopped { .. })
        {
            return Ok(None);
        }
        let history = history()?;
        let seconds = history.points.last().map_or(0.0, |point| point.seconds);
        if let Some(last) = history.validations.into_iter().next_back() {
            rows.push(AblationRow {
                variant: variant.name(),
                parts: variant.parts().into(),
                steps: last.step,
                seconds,
                output: last.output,
                auxiliary: last.auxiliary,
            });
        }
        write(config, &rows)?;
    }
    Ok(Some(rows))
}

fn write(config: &TrainingConfig, rows: &[AblationRow]) -> Result<(), TrainingError> {
    let (markdown, json) = (config.output.join("ablation.md"), config.output.join("ablation.json"));
    let table = table(rows);
    write_atomically(&markdown, |file| file.write_all(table.as_bytes()))
        .map_err(TrainingError::io(&markdown))?;
    write_atomically(&json, |file| Ok(serde_json::to_writer_pretty(file, rows)?))
        .map_err(TrainingError::io(&json))
}

/// The rows as a Markdown table.
pub fn table(rows: &[AblationRow]) -> String {
    let percent = |dice: Option<f64>| dice.map_or("–".into(), |dice| format!("{:.2}", 100.0 * dice));
    let names: Vec<&str> = rows
        .first()
        .map(|row| row.output.classes.iter().map(|(name, _)| name.as_str()).collect())
        .unwrap_or_default();
    let mut table = String::from("| variant | parts | steps | s |");
    for name in &names {
        let _ = write!(table, " {name} |");
    }
    table += " mean Dice, % | auxiliary masks, % |\n|---|---|---|---|";
    table += &"---|".repeat(names.len() + 2);
    for row in rows {
        let _ = write!(table, "\n| {} | {} | {} | {:.0} |", row.variant, row.parts, row.steps, row.seconds);
        for (_, dice) in &row.output.classes {
            let _ = write!(table, " {} |", percent(*dice));
        }
        let _ = write!(table, " {} | {} |", percent(row.output.mean), percent(row.auxiliary.mean));
    }
    table.push('\n');
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::Backbone;

    #[test]
    fn rows_are_those_of_the_paper() {
        let full = NetworkConfig::full(Backbone::LiteMedsam, 128);
        let [s1, s2, s3, s4, s5, s6, s7, s8, s9] = Variant::ALL.map(|variant| variant.of(&full));
        assert_eq!((s1.generator, s2.generator), (GeneratorKind::Stacked, GeneratorKind::MultiScale));
        assert_eq!(
            (s1.adapter, s2.adapter, s3.adapter),
            (AdapterKind::None, AdapterKind::None, AdapterKind::Vanilla)
        );
        assert_eq!((s4.adapter, s5.adapter), (AdapterKind::DepthBefore, AdapterKind::DepthAfter));
        assert_eq!(s6, NetworkConfig { adapter: AdapterKind::DepthFused, ..s3 });
        assert_eq!(s7, NetworkConfig { depth_position: true, ..s6 });
        assert_eq!(s8, NetworkConfig { modality_adapter: true, ..s7 });
        assert_eq!(s9, NetworkConfig { classes_adapter: true, ..s8 });
        assert_eq!(s9, full);
    }

    #[test]
    fn names_are_parsed_and_mistakes_named() {
        assert_eq!("S7".parse::<Variant>().unwrap().name(), "S7");
        for wrong in ["S0", "S10", "7", "T1"] {
            assert!(wrong.parse::<Variant>().unwrap_err().to_string().contains(wrong));
        }
    }

    #[test]
    fn the_table_has_a_row_a_variant() {
        let figures = |mean| DiceFigures { mean, classes: vec![("liver".into(), mean)] };
        let row = AblationRow {
            variant: "S2".into(),
            parts: "MSPGenerator".into(),
            steps: 10,
            seconds: 4.2,
            output: figures(Some(0.5)),
            auxiliary: figures(None),
        };
        let table = table(&[row]);
        assert!(table.contains("| S2 | MSPGenerator | 10 | 4 | 50.00 | 50.00 | – |"), "{table}");
        let columns = |line: &str| line.matches('|').count();
        assert!(table.lines().all(|line| columns(line) == 8), "{table}");
    }
}
