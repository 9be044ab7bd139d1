//! The watched folder.

use std::fs;
use std::sync::Arc;

use self_prompt_sam::scanner::{Intake, Limits, Spool, Watch};

use super::peer::{image, write_file};

#[test]
fn files_are_taken_once_and_only_when_they_are_complete() {
    let root = tempfile::tempdir().unwrap();
    let (folder, spool) = (root.path().join("in"), root.path().join("spool"));
    fs::create_dir_all(folder.join("a/b")).unwrap();
    let open = || Arc::new(Intake::new(Spool::open(&spool, Limits::default()).unwrap(), |_| {}));
    let intake = open();
    let images = |intake: &Intake| -> usize {
        let spool = intake.spool();
        spool.unfinished().iter().map(|id| spool.series(id).unwrap().images).sum()
    };
    let mut watch = Watch::new(&folder, intake.clone()).unwrap();
    write_file(&image("1.2.4", 0), &folder.join("a/b/first"));
    fs::write(folder.join("notes.txt"), "no DICOM").unwrap();
    watch.look();
    assert_eq!(images(&intake), 0, "it may still grow");
    watch.look();
    assert_eq!(images(&intake), 1);
    // A copy that stops half-way and goes on later.
    let whole = root.path().join("whole");
    write_file(&image("1.2.4", 1), &whole);
    let bytes = fs::read(&whole).unwrap();
    fs::write(folder.join("second.dcm"), &bytes[..bytes.len() / 2]).unwrap();
    (0..3).for_each(|_| watch.look());
    assert_eq!(images(&intake), 1);
    fs::write(folder.join("second.dcm"), &bytes).unwrap();
    (0..3).for_each(|_| watch.look());
    assert_eq!(images(&intake), 2);
    // Done and deleted; the files in the folder are still there.
    let id = intake.spool().unfinished().remove(0);
    intake.spool().finish(&id, None).unwrap();
    drop((watch, intake));
    fs::remove_dir_all(spool.join(&id)).unwrap();
    let intake = open();
    let mut watch = Watch::new(&folder, intake.clone()).unwrap();
    (0..3).for_each(|_| watch.look());
    assert_eq!(images(&intake), 0, "another process takes nothing twice");
    write_file(&image("1.2.4", 2), &folder.join("third"));
    (0..2).for_each(|_| watch.look());
    assert_eq!(images(&intake), 1);
}
