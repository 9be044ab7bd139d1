//! What a spool holds, as another process sees it that only reads.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::record::{Instance, is_hash};

/// Name of the spool in the folder of the results, unless another folder is chosen.
const FOLDER: &str = ".spool";

/// The spool's folder: the one that was chosen, or `.spool` in the folder of the results.
pub fn spool_folder(chosen: Option<PathBuf>, output: &Path) -> PathBuf {
    chosen.unwrap_or_else(|| output.join(FOLDER))
}

/// The images of a series by index: file, and place in it from 0. Empty if there is no such series in the spool.
///
/// # Errors
/// A folder that cannot be read.
pub fn spooled_images(spool: &Path, series_id: &str) -> io::Result<Vec<(PathBuf, usize)>> {
    let mut instances = instances(spool, series_id)?;
    instances.sort_by_key(|instance| instance.number);
    let places = |instance: Instance| {
        let Instance { path, images, .. } = instance;
        (0..images).map(move |place| (path.clone(), place))
    };
    Ok(instances.into_iter().flat_map(places).collect())
}

fn instances(spool: &Path, series_id: &str) -> io::Result<Vec<Instance>> {
    if !is_hash(series_id) {
        return Ok(Vec::new()); // another source's, and perhaps no name of a folder
    }
    let mut instances = Vec::new();
    let files = match fs::read_dir(spool.join(series_id)) {
        Ok(files) => files,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(instances),
        Err(error) => return Err(error),
    };
    for file in files {
        let file = file?;
        instances.extend(Instance::of_file(file.path(), file.metadata()?.len()));
    }
    Ok(instances)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scanner::spool::hashed;

    #[test]
    fn images_have_the_indices_that_their_source_gives_them() {
        let spool = tempfile::tempdir().unwrap();
        let series_id = hashed("1.2.3");
        let folder = spool.path().join(&series_id);
        assert_eq!(spooled_images(spool.path(), &series_id).unwrap(), []);
        fs::create_dir(&folder).unwrap();
        // The third file has two images; the first two files were deleted once.
        let names = [(7, 1), (8, 2), (10, 1)];
        let names = names.map(|(number, images)| Instance::name(number, &hashed("1"), 5, images));
        for name in names.iter().rev() {
            fs::write(folder.join(name), "").unwrap();
        }
        fs::write(folder.join("series.json"), "{}").unwrap();
        let expected = [(0, 0), (1, 0), (1, 1), (2, 0)];
        let expected = expected.map(|(file, place): (usize, usize)| (folder.join(&names[file]), place));
        assert_eq!(spooled_images(spool.path(), &series_id).unwrap(), expected);
        for other in ["", "..", "../x", "case_0", "0123456789ABCDEF"] {
            assert_eq!(spooled_images(spool.path(), other).unwrap(), [], "{other}");
        }
        assert_eq!(spool_folder(None, Path::new("out")), Path::new("out/.spool"));
    }
}
