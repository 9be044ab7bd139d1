//! The effect of a trained bundle's prompts (the paper's Figures 1 and 3): the same weights and cases with every
//! kind and combination of the generator's prompts, without prompts, with prompts from the true labels, and the
//! auxiliary masks alone. `cargo bench --bench self_prompting -- --help`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use eyre::{Result, eyre};
use self_prompt_sam::bundle::{Bundle, PointRule, PromptConfig};
use self_prompt_sam::metrics::{CaseMetrics, DEFAULT_TOLERANCE_MM, Summary, evaluate_case};
use self_prompt_sam::network::segmenter::{
    AuxiliaryGenerator, Decoder, Encoder, prompt_strategy, prompts_from_masks,
};
use self_prompt_sam::prompt::{ConfiguredPrompts, PromptStrategy, SliceMasks, SlicePrompts};
use self_prompt_sam::runtime::{compute, exit_code, prepare};
use self_prompt_sam::training::{TrainingConfig, by_class, divide, slices_of};
use self_prompt_sam::volume::{CasePlan, LabelAssembler, PreparedCase, read_labels};
use tch::Tensor;

#[derive(Parser)]
#[command(about = "Dice of a trained bundle with every kind of prompt")]
struct Args {
    /// Trained bundle
    #[arg(long)]
    model: PathBuf,
    /// Configuration of its training: the validation cases are segmented
    #[arg(long)]
    config: PathBuf,
    /// Dataset folder, instead of the configuration's
    #[arg(long)]
    data: Option<PathBuf>,
    /// Use only this many cases, spread over all
    #[arg(long)]
    cases: Option<usize>,
    /// Added by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

/// A row of the table.
struct Row {
    name: &'static str,
    source: Source,
}

enum Source {
    /// The auxiliary masks are the output.
    Auxiliary,
    /// Prompts from the auxiliary masks.
    Generator(PromptConfig),
    /// Prompts from the true labels.
    Oracle(PromptConfig),
}

fn rows() -> Vec<Row> {
    let kinds = |point: bool, boxes: bool, mask: bool| PromptConfig {
        point: point.then_some(PointRule::DistanceTransform),
        boxes,
        mask,
    };
    let rule = |rule| PromptConfig { point: Some(rule), boxes: true, mask: true };
    let generator = |name, config| Row { name, source: Source::Generator(config) };
    let oracle = |name, config| Row { name, source: Source::Oracle(config) };
    vec![
        Row { name: "auxiliary masks alone, no decoder", source: Source::Auxiliary },
        generator("no prompt", kinds(false, false, false)),
        generator("point", kinds(true, false, false)),
        generator("box", kinds(false, true, false)),
        generator("mask", kinds(false, false, true)),
        generator("point + box", kinds(true, true, false)),
        generator("point + mask", kinds(true, false, true)),
        generator("box + mask", kinds(false, true, true)),
        generator("point + box + mask", kinds(true, true, true)),
        generator("point + box + mask, point at the centre of the box", rule(PointRule::BoxCentre)),
        generator("point + box + mask, point at a random pixel", rule(PointRule::Random)),
        oracle("oracle: box from the labels", kinds(false, true, false)),
        oracle("oracle: point + box from the labels", kinds(true, true, false)),
        oracle("oracle: point + box + mask from the labels", kinds(true, true, true)),
    ]
}

fn main() -> ExitCode {
    let args = Args::parse();
    exit_code(|| {
        prepare()?;
        tch::no_grad(|| measure(&args))
    })
}

fn measure(args: &Args) -> Result<()> {
    let mut training = TrainingConfig::open(&args.config)?;
    if let Some(data) = &args.data {
        training.data.folder.clone_from(data);
    }
    let cases = divide(&training)?.validation;
    let count = args.cases.unwrap_or(cases.len()).min(cases.len());
    let (bundle, compute) = (Bundle::open(&args.model)?, compute()?);
    let encoder = Encoder::load(&bundle, compute)?;
    let generator = AuxiliaryGenerator::load(&bundle, compute)?;
    let decoder = Decoder::load(&bundle, compute)?;
    let strategy = prompt_strategy(&bundle);
    let classes = &bundle.config.classes;
    let rows = rows();
    let mut metrics: Vec<Vec<CaseMetrics>> = rows.iter().map(|_| Vec::new()).collect();
    for index in 0..count {
        let files = &cases[index * cases.len() / count];
        let plan = CasePlan::new(files, &bundle.config, None)?;
        let case = PreparedCase::open(&plan, &bundle.config)?;
        let mut assemblers: Vec<LabelAssembler> =
            rows.iter().map(|_| LabelAssembler::new(&plan, classes.len())).collect();
        for window in 0..plan.windows().len() {
            let encoded = encoder.forward(&slices_of(&case.window(window)), plan.covered(window))?;
            let auxiliary = generator.forward(&encoded.taps)?;
            let truth = case.label_window(window).ok_or_else(|| eyre!("{} has no labels", files.case_id))?;
            for (row, assembler) in rows.iter().zip(&mut assemblers) {
                let prompts: Vec<SlicePrompts> = match row.source {
                    Source::Auxiliary => {
                        assembler.push(window, by_class(&auxiliary).view())?;
                        continue;
                    }
                    Source::Generator(config) => {
                        prompts_from_masks(&ConfiguredPrompts { config, ..strategy }, &auxiliary)?
                    }
                    Source::Oracle(config) => {
                        let strategy = ConfiguredPrompts { config, ..strategy };
                        let masks = truth
                            .outer_iter()
                            .map(|labels| SliceMasks::Labels { labels, classes: classes.len() });
                        masks.map(|masks| strategy.prompts(&masks)).collect::<Result<_, _>>()?
                    }
                };
                let logits: Tensor = decoder.forward(&encoded.for_decoder(), &prompts)?;
                assembler.push(window, by_class(&logits).view())?;
            }
        }
        let path = files.labels.as_ref().map(|labels| labels.path().to_path_buf()).unwrap_or_default();
        let (truth, spacing_mm) = read_labels(&path)?;
        for (assembler, metrics) in assemblers.into_iter().zip(&mut metrics) {
            let labels = assembler.finish();
            let classes =
                evaluate_case(truth.view(), labels.view(), spacing_mm, classes, DEFAULT_TOLERANCE_MM)?;
            metrics.push(CaseMetrics { case_id: files.case_id.clone(), classes });
        }
        tracing::info!("{} ({} of {count})", files.case_id, index + 1);
    }
    println!("| prompts | {} | mean Dice, % | HD95, mm | missed |", classes[1..].join(" | "));
    println!("|---|{}", "---|".repeat(classes.len() + 2));
    for (row, metrics) in rows.iter().zip(&metrics) {
        let summary = Summary::from_cases(metrics, DEFAULT_TOLERANCE_MM);
        let of_classes: Vec<String> = classes[1..]
            .iter()
            .map(|name| {
                format!("{:.2}", 100.0 * summary.classes.get(name).map_or(f64::NAN, |class| class.dice))
            })
            .collect();
        // The distance is defined where truth and output both have the class.
        let hd95: Vec<f64> =
            summary.classes.values().map(|class| class.hd95_mm).filter(|hd95| hd95.is_finite()).collect();
        let hd95 = hd95.iter().sum::<f64>() / hd95.len() as f64;
        let missed: usize = summary.classes.values().map(|class| class.one_sided).sum();
        let (name, mean) = (row.name, 100.0 * summary.dice_mean);
        println!("| {name} | {} | {mean:.2} | {hd95:.2} | {missed} |", of_classes.join(" | "));
    }
    Ok(())
}
