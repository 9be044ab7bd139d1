//! The nodes' settings, from environment variables that the dataflow's `env:` sets.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use eyre::{Result, WrapErr, bail, eyre};

use super::sample::Sample;
use super::variables::{given, parse_number};
pub use super::variables::{number, value, variable};
use crate::bundle::{Bundle, PointRule, PromptConfig, SliceAxis};
use crate::report::CasePart;
use crate::scanner::network::Listen;
use crate::scanner::sender::Destination;
use crate::scanner::spool_folder;
use crate::volume::{IgnoreValues, Regrid};

/// Settings that several nodes share. Empty variables count as unset.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `SPSAM_MODEL`: folder of the model bundle; `None` = plain LiteMedSAM.
    pub model: Option<PathBuf>,
    /// `SPSAM_INPUT`: file or folder with volumes. Without it, the volume, the model and the regions of `SPSAM_SAMPLE`.
    pub input: Option<PathBuf>,
    /// `SPSAM_LABELS`: file or folder with label volumes.
    pub labels: Option<PathBuf>,
    /// `SPSAM_BOXES`: boxes to use as prompts, `name=x0,y0,z0,x1,y1,z1` in world mm (RAS), separated by `;`.
    pub boxes: Vec<NamedBox>,
    /// `SPSAM_ROI`: region of interest, `x0,y0,z0,x1,y1,z1` in world mm (RAS), with the name "". Or several regions
    /// with names, `name=x0,y0,z0,x1,y1,z1` separated by `;`: each becomes a case called `<case>_<name>`.
    pub regions: Vec<NamedBox>,
    /// `SPSAM_PROMPTS`: prompts to use instead of the model's: `none`, or any of `point`, `point:centre`,
    /// `point:random`, `box` and `mask`, separated by commas.
    pub prompts: Option<PromptConfig>,
    /// `SPSAM_MIRROR`: whether to use mirrored test-time augmentation if the model asks for it; 1 by default.
    pub mirror: bool,
    /// `SPSAM_LOCATE`: whether a first pass finds the place of the classes if the model asks for it; 1 by default.
    pub locate: bool,
    /// `SPSAM_SLICE_AXIS`: anatomical axis along which slices are stacked, instead of the model's.
    pub slice_axis: Option<SliceAxis>,
    /// `SPSAM_RESAMPLE_LABELS`: whether labels and further modalities on another grid than the image are resampled
    /// to it; by default (0) they are refused.
    pub regrid: Regrid,
    /// `SPSAM_PART` of `SPSAM_PARTS`: the cases of this run, if several runs share the input and the output folder. Parts
    /// are counted from 0.
    pub part: CasePart,
    /// `SPSAM_OUTPUT`: folder for the results, `output` by default.
    pub output: PathBuf,
    /// `SPSAM_OVERWRITE`: whether results may overwrite files that no earlier run has written; 0 by default.
    pub overwrite: bool,
    /// `SPSAM_SEG`: whether cases that are DICOM series get a DICOM segmentation; 1 by default.
    pub segmentations: bool,
    /// `SPSAM_SEG_TO`: receiver of the DICOM segmentations, `AE@host:port`, which we call as `SPSAM_AE` (`SPSAM`).
    pub send_to: Option<Destination>,
    /// `SPSAM_SPOOL`: folder of the files that a scanner source has received; `.spool` in the output folder by default.
    pub spool: PathBuf,
    /// `SPSAM_IGNORE_LABELS`: label values whose voxels are excluded, separated by commas.
    pub ignore: IgnoreValues,
    /// `SPSAM_WINDOW`: windows in flight for each replica of the nodes between loader and writer, 3 by default.
    pub credits: usize,
    /// `SPSAM_ACK_TIMEOUT_SECS`: a window is sent again if no node has reported work on it for this long; 10 by
    /// default.
    pub ack_timeout: Duration,
}

/// A box with a class name.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedBox {
    /// Class.
    pub name: String,
    /// Two opposite corners, world mm, RAS.
    pub corners_mm: [[f64; 3]; 2],
}

impl Settings {
    /// Reads the environment. Relative paths are relative to `SPSAM_BASE` (the folder in which the user gave the
    /// command), because dora starts nodes elsewhere.
    ///
    /// # Errors
    /// A variable with an invalid value, by name.
    pub fn from_env() -> Result<Self> {
        Self::read(&|name| env::var_os(name))
    }

    /// As [`Settings::from_env`], with the given variables.
    ///
    /// # Errors
    /// A variable with an invalid value, by name.
    pub fn read(variables: &dyn Fn(&str) -> Option<OsString>) -> Result<Self> {
        let value = |name: &str| given(variables(name));
        let variable = |name: &str| value(name).map(|value| value.to_string_lossy().into_owned());
        let number = |name: &str, default| parse_number(name, variable(name), default);
        let base = value("SPSAM_BASE").map(PathBuf::from).unwrap_or_default();
        let path = |name: &str| value(name).map(|value| base.join(value));
        let boxes = variable("SPSAM_BOXES").unwrap_or_default();
        let (mut model, mut input) = (path("SPSAM_MODEL"), path("SPSAM_INPUT"));
        let mut regions = variable("SPSAM_ROI").unwrap_or_default();
        match value("SPSAM_SAMPLE").map(PathBuf::from) {
            Some(file) if input.is_none() => {
                let sample = Sample::open(&file)?;
                input = Some(sample.input);
                model.get_or_insert(sample.model);
                regions = if regions.is_empty() { sample.regions } else { regions };
            }
            Some(_) if model.is_none() => {
                bail!("SPSAM_MODEL is not set: name a model bundle, such as models/hippocampus")
            }
            _ => {}
        }
        let segmentations = number("SPSAM_SEG", 1)? > 0;
        let output = path("SPSAM_OUTPUT").unwrap_or_else(|| base.join("output"));
        Ok(Self {
            model,
            input,
            labels: path("SPSAM_LABELS"),
            boxes: parse_boxes(&boxes).wrap_err("SPSAM_BOXES")?,
            regions: parse_regions(&regions).wrap_err("SPSAM_ROI")?,
            prompts: variable("SPSAM_PROMPTS")
                .map(|text| parse_prompts(&text).wrap_err("SPSAM_PROMPTS"))
                .transpose()?,
            mirror: number("SPSAM_MIRROR", 1)? > 0,
            locate: number("SPSAM_LOCATE", 1)? > 0,
            slice_axis: variable("SPSAM_SLICE_AXIS")
                .map(|text| text.parse().map_err(|error: String| eyre!("SPSAM_SLICE_AXIS: {error}")))
                .transpose()?,
            regrid: if number("SPSAM_RESAMPLE_LABELS", 0)? > 0 { Regrid::Resample } else { Regrid::Refuse },
            send_to: destination(variable("SPSAM_SEG_TO"), variable("SPSAM_AE"), segmentations)?,
            spool: spool_folder(path("SPSAM_SPOOL"), &output),
            part: CasePart::new(number("SPSAM_PART", 0)?, number("SPSAM_PARTS", 1)?)
                .map_err(|reason| eyre!("SPSAM_PART, SPSAM_PARTS: {reason}"))?,
            output,
            overwrite: number("SPSAM_OVERWRITE", 0)? > 0,
            segmentations,
            ignore: variable("SPSAM_IGNORE_LABELS")
                .unwrap_or_default()
                .parse()
                .map_err(|error: String| eyre!("SPSAM_IGNORE_LABELS: {error}"))?,
            credits: number("SPSAM_WINDOW", 3)?.max(1),
            ack_timeout: Duration::from_secs(number("SPSAM_ACK_TIMEOUT_SECS", 10)?.max(1) as u64),
        })
    }

    /// The model bundle, or plain LiteMedSAM if none is named.
    ///
    /// # Errors
    /// A bundle that cannot be read, or prompts that do not fit into a message.
    pub fn bundle(&self) -> Result<Bundle> {
        let mut bundle = match &self.model {
            Some(path) => Bundle::open(path)?,
            None => Bundle::plain_lite_medsam(&lite_medsam_weights()?),
        };
        if let Some(prompts) = self.prompts {
            bundle.config.network.prompts = prompts;
            bundle.config.check().map_err(|reason| eyre!("SPSAM_PROMPTS: {reason}"))?;
        }
        if let Some(slice_axis) = self.slice_axis {
            bundle.config.slice_axis = slice_axis;
        }
        if !self.mirror {
            bundle.config.patch.mirror = [false; 3];
        }
        if !self.locate {
            bundle.config.patch.locate = None;
        }
        Ok(bundle)
    }
}

/// Path of LiteMedSAM's weights: `SPSAM_WEIGHTS`, or the file that set-up installed in `.spsam/weights` of the
/// project in which this program was built.
fn lite_medsam_weights() -> Result<PathBuf> {
    if let Some(path) = variable("SPSAM_WEIGHTS") {
        return Ok(path.into());
    }
    let program = env::current_exe().wrap_err("the program's own path")?;
    let found = program
        .ancestors()
        .map(|folder| folder.join(".spsam/weights/lite_medsam.pth"))
        .find(|candidate| candidate.exists());
    found.ok_or_else(|| {
        eyre!(
            "no LiteMedSAM weights in .spsam/weights above {}: run `cargo xtask setup`, or set SPSAM_WEIGHTS or SPSAM_MODEL",
            program.parent().unwrap_or(Path::new(".")).display()
        )
    })
}

/// The receiver of DICOM segmentations.
fn destination(
    to: Option<String>,
    ae: Option<String>,
    has_segmentations: bool,
) -> Result<Option<Destination>> {
    let Some(to) = to else { return Ok(None) };
    if !has_segmentations {
        bail!("SPSAM_SEG_TO is set, but SPSAM_SEG=0: there is nothing to send");
    }
    let calling = ae.unwrap_or_else(|| Listen::default().title);
    let destination = Destination::parse(&to, calling.trim());
    destination.map(Some).map_err(|reason| eyre!("SPSAM_SEG_TO: {reason}"))
}

/// A combination of the paper's prompts (Figures 1 and 3): `none`, or any of `point` (by distance transform),
/// `point:centre` (of the box), `point:random` (in the mask), `box` and `mask`, separated by commas.
fn parse_prompts(text: &str) -> Result<PromptConfig> {
    let mut config = PromptConfig { point: None, boxes: false, mask: false };
    for kind in text.split(',').map(str::trim) {
        match kind {
            "none" => {}
            "point" => config.point = Some(PointRule::DistanceTransform),
            "point:centre" => config.point = Some(PointRule::BoxCentre),
            "point:random" => config.point = Some(PointRule::Random),
            "box" => config.boxes = true,
            "mask" => config.mask = true,
            other => bail!("`{other}` is not one of none, point, point:centre, point:random, box, mask"),
        }
    }
    Ok(config)
}

fn parse_boxes(text: &str) -> Result<Vec<NamedBox>> {
    let items = text.split(';').map(str::trim).filter(|item| !item.is_empty());
    items
        .map(|item| {
            let (name, numbers) =
                item.split_once('=').ok_or_else(|| eyre!("`{item}` is not name=x0,y0,z0,x1,y1,z1"))?;
            Ok(NamedBox { name: name.trim().into(), corners_mm: corners(numbers)? })
        })
        .collect()
}

/// One region without a name, or several with different names.
fn parse_regions(text: &str) -> Result<Vec<NamedBox>> {
    if !text.trim().is_empty() && !text.contains('=') {
        return Ok(vec![NamedBox { name: String::new(), corners_mm: corners(text)? }]);
    }
    let regions = parse_boxes(text)?;
    for (place, region) in regions.iter().enumerate() {
        let is_plain = |c: char| c.is_alphanumeric() || c == '-' || c == '_';
        if region.name.is_empty() || !region.name.chars().all(is_plain) {
            bail!("`{}` cannot be part of a file name: use letters, digits, - and _", region.name);
        } else if regions[..place].iter().any(|other| other.name == region.name) {
            bail!("there are two regions called `{}`", region.name);
        }
    }
    Ok(regions)
}

fn corners(text: &str) -> Result<[[f64; 3]; 2]> {
    let numbers: Vec<f64> = text
        .split(',')
        .map(|number| number.trim().parse::<f64>().map_err(|_| eyre!("`{number}` is not a number")))
        .collect::<Result<_>>()?;
    match numbers[..] {
        [x0, y0, z0, x1, y1, z1] if numbers.iter().all(|n| n.is_finite()) => Ok([[x0, y0, z0], [x1, y1, z1]]),
        _ => bail!("`{text}` is not six finite numbers x0,y0,z0,x1,y1,z1"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receiver_needs_a_title_an_address_and_something_to_send() {
        let read = |variables: &[(&str, &str)]| {
            let value = |name: &str| {
                variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into())
            };
            Settings::read(&value).map(|settings| settings.send_to).map_err(|error| error.to_string())
        };
        assert_eq!(read(&[]), Ok(None));
        let to = ("SPSAM_SEG_TO", "ARCHIVE@pacs:104");
        assert_eq!(read(&[to]), Ok(Destination::parse(to.1, "SPSAM").ok()));
        assert_eq!(read(&[to, ("SPSAM_AE", "US")]), Ok(Destination::parse(to.1, "US").ok()));
        assert!(read(&[to, ("SPSAM_SEG", "0")]).unwrap_err().contains("SPSAM_SEG=0"));
        assert!(read(&[("SPSAM_SEG_TO", "pacs:104")]).unwrap_err().contains("expected AE@host:port"));
    }

    #[test]
    fn prompts_are_parsed_and_mistakes_named() {
        let config = parse_prompts("point:random, mask").unwrap();
        assert_eq!(config, PromptConfig { point: Some(PointRule::Random), boxes: false, mask: true });
        assert_eq!(parse_prompts("point,box,mask").unwrap(), PromptConfig::default());
        assert!(parse_prompts("box,boxes").unwrap_err().to_string().contains("boxes"));
    }

    #[test]
    fn regions_are_one_without_a_name_or_several_with_names() {
        assert!(parse_regions(" ").unwrap().is_empty());
        assert_eq!(parse_regions("1,2,3,4,5,6").unwrap()[0].name, "");
        let names = |text: &str| -> Vec<String> {
            parse_regions(text).unwrap().into_iter().map(|region| region.name).collect()
        };
        assert_eq!(names("left=1,2,3,4,5,6;right=-1,2,3,-4,5,6"), ["left", "right"]);
        for wrong in ["1,2", "a=1,2,3,4,5,6;a=1,2,3,4,5,6", "../a=1,2,3,4,5,6", "=1,2,3,4,5,6"] {
            assert!(parse_regions(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn boxes_are_parsed_and_mistakes_named() {
        let boxes = parse_boxes("left=1,2,3,4,5,6; right = -1,0,0,1,1,1.5;").unwrap();
        assert_eq!(
            boxes[0],
            NamedBox { name: "left".into(), corners_mm: [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]] }
        );
        assert_eq!(boxes[1].corners_mm[1][2], 1.5);
        for wrong in ["1,2,3,4,5,6", "a=1,2,3", "a=1,2,3,4,5,x", "a=1,2,3,4,5,inf"] {
            assert!(parse_boxes(wrong).is_err(), "{wrong}");
        }
    }
}
