//! The volumes of a complete series, as files that any run can segment again.

use std::path::Path;
use std::sync::Arc;

use super::image::Image;
use crate::dicom::{Arranged, arrange};
use crate::message::control::{LiveCase, LiveImage};
use crate::runtime::clock::now_ns;
use crate::volume::{CaseFiles, write_series};

/// Folder of the images in the folder of the results.
pub const IMAGES: &str = "images";

/// A volume of a complete series.
#[derive(Debug)]
pub(super) struct Complete {
    pub files: CaseFiles,
    pub live: LiveCase,
}

/// Name of a case of a series: of one of its volumes, and of a revision.
pub(super) fn case_name(name: &str, labels: &[String], revision: i64) -> String {
    let mut parts = vec![name.to_owned()];
    parts.extend_from_slice(labels);
    parts.extend((revision > 0).then(|| format!("r{revision}")));
    parts.join("_")
}

/// Divides the images into volumes, and writes each to `<output>/images/<name>.nii.gz`. Returns volumes, and the names of
/// those that cannot be made or written, each with one line saying why.
pub(super) fn write_volumes(
    output: &Path,
    name: &str,
    revision: i64,
    images: &[Arc<Image>],
) -> Vec<Result<Complete, (String, String)>> {
    let placements = images.iter().map(|image| &image.frame.placement).enumerate();
    let write = |arranged: Arranged| {
        let case_id = case_name(name, &arranged.labels, revision);
        volume(output, &case_id, &arranged, images).map_err(|error| (case_id, error))
    };
    arrange(Path::new(name), placements).into_iter().map(write).collect()
}

fn volume(
    output: &Path,
    case_id: &str,
    arranged: &Arranged,
    images: &[Arc<Image>],
) -> Result<Complete, String> {
    let volume = arranged.volume.as_ref().map_err(ToString::to_string)?;
    let folder = output.join(IMAGES);
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let path = folder.join(format!("{case_id}.nii.gz"));
    let ordered: Vec<&Arc<Image>> = arranged.images.iter().map(|&index| &images[index]).collect();
    let slices: Vec<Vec<f32>> =
        ordered.iter().map(|image| image.rows_of_volume().flatten().copied().collect()).collect();
    write_series(&path, volume.shape(), &volume.world_from_voxel(), slices.iter().map(Vec::as_slice))
        .map_err(|error| error.to_string())?;
    let image = |(slice, image): (usize, &&Arc<Image>)| LiveImage {
        index: image.frame.index,
        slice: Some(slice),
        received_ns: image.frame.received_ns,
        arrived_ns: image.arrived_ns,
    };
    let first = &ordered[0].frame;
    Ok(Complete {
        files: CaseFiles { case_id: case_id.into(), images: vec![path], labels: None },
        live: LiveCase {
            series_id: first.series_id.clone(),
            revision: first.revision,
            provisional: false,
            shape: [first.placement.rows, first.placement.columns],
            images: ordered.iter().enumerate().map(image).collect(),
            planned_ns: now_ns(),
        },
    })
}
