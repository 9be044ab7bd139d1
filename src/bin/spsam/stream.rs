//! `spsam stream`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;
use clap::builder::FalseyValueParser;
use eyre::{Result, WrapErr, bail};
use self_prompt_sam::compute::Precision;
use self_prompt_sam::runtime::device_by_name;
use self_prompt_sam::runtime::live::LiveLoader;
use self_prompt_sam::runtime::view::PageAddress;

use super::check;
use super::dataflow::{Dataflow, Ended, Flow, LOG};
use super::infer::{absolute, failed, slice_axis};

#[derive(Args)]
pub struct Stream {
    /// Model bundle of one modality: a folder with model.yml.
    #[arg(long)]
    model: PathBuf,
    /// Folder for images, label maps, DICOM segmentations, summary.json and report.html.
    #[arg(long, default_value = "output")]
    output: PathBuf,
    /// Address and port of the DICOM receiver, or off. An address that other machines can reach needs --allow.
    #[arg(long, env = "SPSAM_LISTEN", default_value = "127.0.0.1:11112")]
    listen: String,
    /// AE title of the receiver.
    #[arg(long, env = "SPSAM_AE", default_value = "SPSAM")]
    ae: String,
    /// AE titles of peers that may send, separated by commas. Default: any, from this machine only.
    #[arg(long, env = "SPSAM_ALLOWED_AES", default_value = "", hide_default_value = true)]
    allow: String,
    /// Also listen for scanners that stream by MRD (ISMRMRD): a port of this machine, by convention 9002, or address:port. An
    /// address that other machines can reach needs --mrd-allow.
    #[arg(long, env = "SPSAM_MRD", value_name = "PORT", default_value = "", hide_default_value = true)]
    mrd: String,
    /// IP addresses of MRD clients, separated by commas. Default: any, from this machine only.
    #[arg(
        long,
        env = "SPSAM_MRD_ALLOW",
        value_name = "ADDRESSES",
        default_value = "",
        hide_default_value = true
    )]
    mrd_allow: String,
    /// What MRD clients get back: any of masks, provisional and originals, separated by commas, or none.
    #[arg(long, env = "SPSAM_MRD_RETURN", value_name = "WHAT", default_value = "masks")]
    mrd_return: String,
    /// Folder whose DICOM files are taken, also those in subfolders and those that appear later.
    #[arg(long, env = "SPSAM_WATCH")]
    watch: Option<PathBuf>,
    /// Folder of received files, which hold patient data. Default: .spool in the output folder.
    #[arg(long, env = "SPSAM_SPOOL")]
    spool: Option<PathBuf>,
    /// A series is complete if no image comes for this many seconds and no open association sends it.
    #[arg(long, env = "SPSAM_SERIES_IDLE_SECS", default_value_t = 5, value_name = "SECONDS")]
    idle: usize,
    /// Address and port of the page that shows images and masks as they come, or off.
    #[arg(long, env = "SPSAM_VIEW", default_value = "127.0.0.1:8765")]
    view: String,
    /// Number of series after which the run ends; 0: it goes on until Ctrl-C.
    #[arg(long, env = "SPSAM_SERIES", default_value_t = 0)]
    series: usize,
    /// Segment only this region, world mm (RAS): x0,y0,z0,x1,y1,z1.
    #[arg(long, value_name = "BOX", allow_hyphen_values = true)]
    roi: Option<String>,
    /// No mirrored test-time augmentation of complete series, even if the model asks for it.
    #[arg(long)]
    no_mirror: bool,
    /// Windows everywhere, even if the model asks for a first pass that finds the place of its classes.
    #[arg(long)]
    everywhere: bool,
    /// No DICOM segmentations (`<case>.seg.dcm`).
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
    /// Anatomical axis along which slices are stacked, instead of the model's: axial, coronal or sagittal.
    #[arg(long, env = "SPSAM_SLICE_AXIS", value_name = "AXIS", default_value = "", hide_default_value = true, value_parser = slice_axis)]
    slice_axis: String,
    /// Overwrite files in the output folder even if no earlier run has written them.
    #[arg(long, env = "SPSAM_OVERWRITE", value_parser = FalseyValueParser::new())]
    overwrite: bool,
    /// auto (CUDA if there is one), cpu, cuda or cuda:N.
    #[arg(long, env = "SPSAM_DEVICE", default_value = "auto")]
    device: String,
    /// Precision of the network: auto (bf16 if the hardware supports it), fp32, bf16 or fp16.
    #[arg(long, env = "SPSAM_PRECISION", default_value = "auto")]
    precision: Precision,
    /// CPU threads of each node, 0 = one per core.
    #[arg(long, env = "SPSAM_THREADS", default_value_t = 0)]
    threads: usize,
    /// Another dataflow, with your own nodes in it.
    #[arg(long)]
    dataflow: Option<PathBuf>,
    /// Also show the log of dora and the nodes, which is in spsam.log in the output folder in any case.
    #[arg(long, short)]
    verbose: bool,
}

impl Stream {
    pub fn run(self) -> Result<()> {
        let flow = match &self.dataflow {
            Some(path) => Flow::Custom(path.clone()),
            None => Flow::Own(super::project()?.join("dataflows/stream.yml")),
        };
        let folder = |path: &Option<PathBuf>| path.as_deref().map(absolute).transpose();
        let settings: [(_, OsString); 24] = [
            ("SPSAM_MODEL", absolute(&self.model)?.into()),
            ("SPSAM_OUTPUT", absolute(&self.output)?.into()),
            ("SPSAM_LISTEN", self.listen.into()),
            ("SPSAM_AE", self.ae.into()),
            ("SPSAM_ALLOWED_AES", self.allow.into()),
            ("SPSAM_MRD", self.mrd.into()),
            ("SPSAM_MRD_ALLOW", self.mrd_allow.into()),
            ("SPSAM_MRD_RETURN", self.mrd_return.into()),
            ("SPSAM_WATCH", folder(&self.watch)?.unwrap_or_default().into()),
            ("SPSAM_SPOOL", folder(&self.spool)?.unwrap_or_default().into()),
            ("SPSAM_SERIES_IDLE_SECS", self.idle.to_string().into()),
            ("SPSAM_SERIES", self.series.to_string().into()),
            ("SPSAM_VIEW", self.view.clone().into()),
            ("SPSAM_ROI", self.roi.unwrap_or_default().into()),
            ("SPSAM_MIRROR", u8::from(!self.no_mirror).to_string().into()),
            ("SPSAM_LOCATE", u8::from(!self.everywhere).to_string().into()),
            ("SPSAM_SEG", u8::from(!self.no_seg).to_string().into()),
            ("SPSAM_SEG_TO", self.send_to.into()),
            ("SPSAM_SLICE_AXIS", self.slice_axis.into()),
            ("SPSAM_OVERWRITE", u8::from(self.overwrite).to_string().into()),
            ("SPSAM_DEVICE", self.device.clone().into()),
            ("SPSAM_PRECISION", self.precision.name().into()),
            ("SPSAM_THREADS", self.threads.to_string().into()),
            ("SPSAM_BASE", std::env::current_dir().wrap_err("this folder")?.into()),
        ];
        PageAddress::parse(&self.view)?;
        let read = check::settings(&settings)?;
        device_by_name(&self.device)?;
        let bundle = read.bundle()?;
        check::weights(&bundle)?;
        LiveLoader::new(read.clone(), &bundle)?;
        check::output(&read.output)?;
        let ended = Dataflow::start(&flow, &settings, &read.output, LOG, self.verbose)?.wait(|dataflow| {
            dataflow.terminate();
            Ok("stopping")
        })?;
        match ended {
            Ended::Succeeded | Ended::Stopped(_) => {
                println!("images, label maps, summary.json and report.html are in {}", self.output.display());
                Ok(())
            }
            Ended::Failed(failure) => Err(failed(failure)),
            Ended::AtOnce => {
                bail!("stopped; series that were not written are in the spool, for the next start")
            }
        }
    }
}
