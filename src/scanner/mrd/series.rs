//! The series of a connection, and its images as DICOM files.

use std::collections::BTreeMap;

use super::geometry::{Position, placements};
use super::header::{ImageHeader, Layout};
use super::scan::ScanHeader;
use crate::bundle::MAX_MESSAGE_BYTES;
use crate::dicom::{Kind, MrObject, Placement, new_uid};

/// Most series of a connection.
const MOST_SERIES: usize = 256;
/// Longest side of an image.
const LONGEST_SIDE: usize = (1 << 15) - 1;

/// What identifies the series of a connection. No two connections have the same series.
#[derive(Debug)]
pub struct Images {
    study_uid: String,
    frame_of_reference_uid: String,
    /// By `image_series_index`.
    series: BTreeMap<u16, Series>,
}

#[derive(Debug)]
struct Series {
    uid: String,
    /// Messages so far.
    messages: usize,
}

impl Default for Images {
    fn default() -> Self {
        Self { study_uid: new_uid(), frame_of_reference_uid: new_uid(), series: BTreeMap::new() }
    }
}

impl Images {
    /// The next image as a DICOM file, with places as [`describe`] gives them.
    ///
    /// # Errors
    /// Too many series.
    pub fn object(
        &mut self,
        header: &ImageHeader,
        scan: &ScanHeader,
        layout: &Layout,
        placements: Vec<Placement>,
    ) -> Result<MrObject, String> {
        let index = header.image_series_index;
        if !self.series.contains_key(&index) && self.series.len() >= MOST_SERIES {
            return Err(format!("more than {MOST_SERIES} series on a connection"));
        }
        let series = self.series.entry(index).or_insert_with(|| Series { uid: new_uid(), messages: 0 });
        series.messages += 1;
        let own = |given: &Option<String>, own: &String| given.as_ref().unwrap_or(own).clone();
        Ok(MrObject {
            study_uid: own(&scan.study_uid, &self.study_uid),
            series_uid: series.uid.clone(),
            instance_uid: new_uid(),
            frame_of_reference_uid: own(&scan.frame_of_reference_uid, &self.frame_of_reference_uid),
            series_number: index.into(),
            instance_number: series.messages,
            patient_position: scan.patient_position.clone(),
            expected: scan.expected(layout.slices),
            placements,
            stored: layout.pixel.stored(),
        })
    }
}

/// Where the slices of an image lie, and what distinguishes them from others of its series: contrasts by echo time,
/// repetitions by temporal position, phases by trigger time (their number), sets and averages by image type.
///
/// # Errors
/// Why the image cannot be used.
pub fn describe(
    header: &ImageHeader,
    layout: &Layout,
    scan: &ScanHeader,
    convention: Position,
) -> Result<Vec<Placement>, String> {
    if layout.is_colour {
        return Err("a colour image".into());
    } else if layout.channels != 1 {
        return Err(format!("an image of {} channels", layout.channels));
    }
    let Layout { columns, rows, .. } = *layout;
    if columns.max(rows) > LONGEST_SIDE || columns * rows * size_of::<f32>() > MAX_MESSAGE_BYTES {
        return Err(format!("an image of {rows} × {columns} pixels, which do not fit into a message"));
    }
    let mut placements = placements(header, convention)?;
    let kind = Kind {
        image_type: image_type(header),
        echo_time: Some(scan.echo_time(header.contrast)),
        temporal_position: Some(f64::from(header.repetition) + 1.0),
        b_value: None,
        acquisition: Some(1.0),
        trigger_time: Some(f64::from(header.phase)),
    };
    placements.iter_mut().for_each(|placement| placement.kind = kind.clone());
    Ok(placements)
}

fn image_type(header: &ImageHeader) -> String {
    let kind = match header.image_type {
        2 => "P",
        3 => "R",
        4 => "I",
        _ => "M",
    };
    let mut parts = vec!["ORIGINAL".to_owned(), "PRIMARY".into(), kind.into()];
    for (name, value) in [("SET", header.set), ("AVE", header.average)] {
        parts.extend((value > 0).then(|| format!("{name}{value}")));
    }
    parts.join("\\")
}
