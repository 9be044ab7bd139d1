//! The description of a scan: the XML of message 3, namespace `http://www.ismrm.org/ISMRMRD`. Names of patients in it are
//! not read.

use roxmltree::Node;

use super::meta::parse_xml;

/// What some clients send instead of a description.
const DUMMY: &str = "Dummy XML header";
/// Most images that the limits may announce.
const MOST_EXPECTED: usize = 100_000;
/// Longest text that is taken over.
const LONGEST_TEXT: usize = 64;

/// What is used of a description.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ScanHeader {
    /// Study Instance UID, if there is a valid one.
    pub study_uid: Option<String>,
    /// Frame of Reference UID, if there is a valid one.
    pub frame_of_reference_uid: Option<String>,
    /// Such as `HFS`; empty if it is not known.
    pub patient_position: String,
    /// Echo times in milliseconds, if they are all different.
    pub echo_times: Vec<f64>,
    /// Number of images of a series, each of one or several slices, if there are limits.
    pub images: Option<usize>,
}

impl ScanHeader {
    /// Reads a description; one that is a dummy says nothing.
    ///
    /// # Errors
    /// A text that is neither a description nor the usual dummy.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).map_err(|_| "a header that is no UTF-8")?;
        let text = text.trim_matches(['\0', ' ', '\n', '\r', '\u{feff}']);
        if text.is_empty() || text == DUMMY {
            return Ok(Self::default());
        }
        let document = parse_xml(text).ok_or("a header that is no XML")?;
        let root = document.root_element();
        if root.tag_name().name() != "ismrmrdHeader" {
            return Err("a header that is no ismrmrdHeader".into());
        }
        let uid = |path: &[&str]| value(root, path).filter(|text| is_uid(text)).map(str::to_owned);
        let position = value(root, &["measurementInformation", "patientPosition"]).unwrap_or_default();
        let position = position.chars().filter(char::is_ascii_alphanumeric).take(4).collect();
        Ok(Self {
            study_uid: uid(&["studyInformation", "studyInstanceUID"]),
            frame_of_reference_uid: uid(&["measurementInformation", "frameOfReferenceUID"]),
            patient_position: position,
            echo_times: echo_times(root),
            images: images(root),
        })
    }

    /// Number of images of a series whose images have `slices` slices.
    pub fn expected(&self, slices: usize) -> Option<usize> {
        let expected = self.images?.checked_mul(slices)?;
        (2..=MOST_EXPECTED).contains(&expected).then_some(expected)
    }

    /// The echo time of a contrast; without one its number, which distinguishes it as well.
    pub fn echo_time(&self, contrast: u16) -> f64 {
        let number = f64::from(contrast) + 1.0;
        self.echo_times.get(usize::from(contrast)).copied().unwrap_or(number)
    }
}

fn child<'a, 'b>(node: Node<'a, 'b>, name: &str) -> Option<Node<'a, 'b>> {
    node.children().find(|child| child.tag_name().name() == name)
}

fn value<'a>(root: Node<'a, '_>, path: &[&str]) -> Option<&'a str> {
    let node = path.iter().try_fold(root, |node, name| child(node, name))?;
    node.text().map(str::trim)
}

fn is_uid(text: &str) -> bool {
    let is_of_digits = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    !text.is_empty() && text.len() <= LONGEST_TEXT && is_of_digits
}

fn echo_times(root: Node) -> Vec<f64> {
    let Some(parameters) = child(root, "sequenceParameters") else { return Vec::new() };
    let echoes = parameters.children().filter(|node| node.tag_name().name() == "TE");
    let times: Vec<f64> = echoes.filter_map(|node| node.text()?.trim().parse().ok()).collect();
    let is_time = |time: &f64| time.is_finite() && *time > 0.0;
    let is_new = |index: usize| !times[..index].contains(&times[index]);
    match times.iter().all(is_time) && (0..times.len()).all(is_new) {
        true => times,
        false => Vec::new(),
    }
}

/// Number of images that the limits of the first encoding announce.
fn images(root: Node) -> Option<usize> {
    let limits = child(child(root, "encoding")?, "encodingLimits")?;
    let count = |name: &str| -> Option<usize> {
        let Some(limit) = child(limits, name) else { return Some(1) };
        value(limit, &["maximum"])?.parse::<u16>().ok().map(|maximum| usize::from(maximum) + 1)
    };
    child(limits, "slice")?;
    ["slice", "contrast", "phase", "repetition", "set"]
        .into_iter()
        .try_fold(1usize, |product, name| product.checked_mul(count(name)?))
}
