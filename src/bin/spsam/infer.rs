//! `spsam infer`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::builder::FalseyValueParser;
use clap::{Args, ValueEnum};
use eyre::{Report, Result, WrapErr, bail};
use self_prompt_sam::bundle::SliceAxis;
use self_prompt_sam::compute::Precision;
use self_prompt_sam::report::result_files;
use self_prompt_sam::runtime::Failures;

use super::check;
use super::dataflow::{Dataflow, Ended, Failure, Flow, LOG};

/// Source of the prompts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Prompts {
    /// The model's own prompt generator (dataflows/infer.yml).
    Model,
    /// The labels given by --labels, or the boxes given by --box (dataflows/oracle.yml).
    Labels,
}

#[derive(Args)]
pub struct Infer {
    /// Volume (.nii, .nii.gz, .hdr), folder of volumes or DICOM series, dataset folder (MSD, nnU-Net, ACDC, Synapse) or .txt list.
    #[arg(long)]
    input: PathBuf,
    /// Model bundle: a folder with model.yml. Without it: plain LiteMedSAM with prompts from --labels or --box.
    #[arg(long)]
    model: Option<PathBuf>,
    /// True labels, for the metrics; with `--prompts labels` also for the prompts.
    #[arg(long)]
    labels: Option<PathBuf>,
    /// Folder for label maps, DICOM segmentations, metrics.csv, summary.json and report.html.
    #[arg(long, default_value = "output")]
    output: PathBuf,
    /// auto (CUDA if there is one), cpu, cuda or cuda:N.
    #[arg(long, env = "SPSAM_DEVICE", default_value = "auto")]
    device: String,
    /// Precision of the network: auto (bf16 if the hardware supports it), fp32, bf16 or fp16.
    #[arg(long, env = "SPSAM_PRECISION", default_value = "auto")]
    precision: Precision,
    /// Source of the prompts. Default: the model, or labels and boxes if there is no model.
    #[arg(long, value_enum)]
    prompts: Option<Prompts>,
    /// A box prompt, world mm (RAS): name=x0,y0,z0,x1,y1,z1. May be repeated.
    #[arg(long = "box", value_name = "BOX", allow_hyphen_values = true)]
    boxes: Vec<String>,
    /// Prompts to use instead of the model's: any of point, point:centre, point:random, box and mask, separated by
    /// commas, or none.
    #[arg(long, value_name = "KINDS")]
    prompt_kinds: Option<String>,
    /// Segment only this region, world mm (RAS): x0,y0,z0,x1,y1,z1. Or several regions, name=x0,y0,z0,x1,y1,z1
    /// separated by `;`, each of which becomes a case.
    #[arg(long, value_name = "BOX", allow_hyphen_values = true)]
    roi: Option<String>,
    /// No mirrored test-time augmentation, even if the model asks for it: each mirrored axis doubles the time.
    #[arg(long)]
    no_mirror: bool,
    /// Windows everywhere, even if the model asks for a first pass that finds the place of its classes.
    #[arg(long)]
    everywhere: bool,
    /// No DICOM segmentations (`<case>.seg.dcm`) of cases that are DICOM series.
    #[arg(long)]
    no_seg: bool,
    /// Send the DICOM segmentations to this receiver (C-STORE), until it accepts them: AE@host:port.
    #[arg(
        long,
        env = "SPSAM_SEG_TO",
        value_name = "RECEIVER",
        default_value = "",
        hide_default_value = true
    )]
    send_to: String,
    /// Overwrite files in the output folder even if no earlier run has written them.
    #[arg(long, env = "SPSAM_OVERWRITE", value_parser = clap::builder::FalseyValueParser::new())]
    overwrite: bool,
    /// Label values whose voxels are excluded from metrics and prompts; separated by commas, may be repeated.
    #[arg(long, env = "SPSAM_IGNORE_LABELS", value_delimiter = ',', value_name = "VALUES")]
    ignore: Vec<String>,
    /// Anatomical axis along which slices are stacked, instead of the model's: axial, coronal or sagittal. For scans
    /// whose slices lie along another axis than in the model's training data, such as oblique short axes of the
    /// heart.
    #[arg(long, env = "SPSAM_SLICE_AXIS", value_name = "AXIS", default_value = "", hide_default_value = true, value_parser = slice_axis)]
    slice_axis: String,
    /// Resample labels (nearest neighbour) and further modalities (linearly) on another grid than the image, by the
    /// affines of both, instead of refusing them.
    #[arg(long, env = "SPSAM_RESAMPLE_LABELS", value_parser = FalseyValueParser::new())]
    resample_labels: bool,
    /// CPU threads of each node, 0 = one per core.
    #[arg(long, env = "SPSAM_THREADS", default_value_t = 0)]
    threads: usize,
    /// Windows in flight (sent and not yet acknowledged); more windows need more memory.
    #[arg(long, env = "SPSAM_WINDOW", default_value_t = 3)]
    window: usize,
    /// Segment only part K, from 0, of the cases, of --parts parts: for job arrays. Runs over the parts may share the input
    /// and the output folder; each writes its own metrics, summary and report, and `spsam evaluate` gives the figures of
    /// all.
    #[arg(long, env = "SPSAM_PART", value_name = "K", default_value_t = 0)]
    part: usize,
    /// Number of parts.
    #[arg(long, env = "SPSAM_PARTS", value_name = "N", default_value_t = 1)]
    parts: usize,
    /// Another dataflow, with your own nodes in it.
    #[arg(long)]
    dataflow: Option<PathBuf>,
    /// Also show the log of dora and the nodes, which is in spsam.log in the output folder in any case.
    #[arg(long, short)]
    verbose: bool,
}

impl Infer {
    pub fn run(self) -> Result<()> {
        let by_labels = match self.prompts {
            Some(prompts) => prompts == Prompts::Labels,
            None => self.model.is_none(),
        };
        self.check_prompts(by_labels)?;
        let flow = match &self.dataflow {
            Some(path) => Flow::Custom(path.clone()),
            None => {
                let name = if by_labels { "dataflows/oracle.yml" } else { "dataflows/infer.yml" };
                Flow::Own(super::project()?.join(name))
            }
        };
        let settings = self.settings()?;
        let read = check::settings(&settings)?;
        if self.dataflow.is_none() {
            check::infer(&read, &self.device, by_labels)?;
        } else {
            check::output(&read.output)?;
        }
        let ended = Dataflow::start(&flow, &settings, &read.output, &read.part.name(LOG), self.verbose)?
            .wait(|dataflow| {
                dataflow.terminate();
                Ok("stopping")
            })?;
        match ended {
            Ended::Succeeded => {}
            Ended::Failed(failure) => return Err(failed(failure)),
            Ended::Stopped(_) | Ended::AtOnce => {
                bail!("stopped; the label maps that are in {} are whole", self.output.display())
            }
        }
        let files = result_files(read.part).join(", ");
        println!("label maps, {files} are in {}", self.output.display());
        Ok(())
    }

    fn check_prompts(&self, by_labels: bool) -> Result<()> {
        if by_labels && self.labels.is_none() && self.boxes.is_empty() {
            bail!(match self.prompts {
                Some(_) => "--prompts labels needs --labels or --box",
                None => "without --model, prompts must come from --labels or --box",
            });
        }
        if !by_labels && !self.boxes.is_empty() {
            bail!("--box is a prompt: the model makes its own, unless you say --prompts labels");
        }
        Ok(())
    }

    /// What the nodes read from their environment.
    fn settings(&self) -> Result<[(&'static str, OsString); 22]> {
        let text = |path: &Option<PathBuf>| path.as_deref().map(absolute).transpose();
        Ok([
            ("SPSAM_INPUT", absolute(&self.input)?.into()),
            ("SPSAM_MODEL", text(&self.model)?.unwrap_or_default().into()),
            ("SPSAM_LABELS", text(&self.labels)?.unwrap_or_default().into()),
            ("SPSAM_OUTPUT", absolute(&self.output)?.into()),
            ("SPSAM_DEVICE", self.device.clone().into()),
            ("SPSAM_PRECISION", self.precision.name().into()),
            ("SPSAM_BOXES", self.boxes.join(";").into()),
            ("SPSAM_ROI", self.roi.clone().unwrap_or_default().into()),
            ("SPSAM_PROMPTS", self.prompt_kinds.clone().unwrap_or_default().into()),
            ("SPSAM_MIRROR", u8::from(!self.no_mirror).to_string().into()),
            ("SPSAM_LOCATE", u8::from(!self.everywhere).to_string().into()),
            ("SPSAM_SEG", u8::from(!self.no_seg).to_string().into()),
            ("SPSAM_SEG_TO", self.send_to.clone().into()),
            ("SPSAM_OVERWRITE", u8::from(self.overwrite).to_string().into()),
            ("SPSAM_IGNORE_LABELS", self.ignore.join(",").into()),
            ("SPSAM_SLICE_AXIS", self.slice_axis.clone().into()),
            ("SPSAM_RESAMPLE_LABELS", u8::from(self.resample_labels).to_string().into()),
            ("SPSAM_THREADS", self.threads.to_string().into()),
            ("SPSAM_WINDOW", self.window.to_string().into()),
            ("SPSAM_PART", self.part.to_string().into()),
            ("SPSAM_PARTS", self.parts.to_string().into()),
            ("SPSAM_BASE", std::env::current_dir().wrap_err("this folder")?.into()),
        ])
    }
}

/// Checks the name of an axis; it may be empty, like the variable.
pub fn slice_axis(text: &str) -> Result<String, String> {
    if text.is_empty() { Ok(String::new()) } else { text.parse().map(|axis: SliceAxis| axis.name().into()) }
}

/// The reasons, one line each; the line above them names the log.
pub fn failed(failure: Failure) -> Report {
    eprintln!("log: {}", failure.log.display());
    Report::new(Failures(failure.reasons))
}

pub fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).wrap_err_with(|| format!("{}", path.display()))
}
