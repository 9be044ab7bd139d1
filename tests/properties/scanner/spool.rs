//! The spool across processes, and its limits.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use self_prompt_sam::scanner::{Limits, Refusal, Spool, Status, Stored};

use super::peer::{image, write_file};

fn open(folder: &Path) -> Spool {
    Spool::open(folder, Limits::default()).unwrap()
}

fn file(series: &str, index: usize) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    write_file(&image(series, index), &path);
    fs::read(path).unwrap()
}

fn store(spool: &Spool, series: &str, index: usize) -> Result<Stored, Refusal> {
    let mut incoming = spool.begin()?;
    incoming.write(&file(series, index))?;
    spool.store(incoming, None)
}

#[test]
fn another_process_goes_on_with_what_was_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let spool = open(folder.path());
    let id = store(&spool, "1.2.4", 2).unwrap().series_id;
    store(&spool, "1.2.4", 0).unwrap();
    let other = store(&spool, "1.2.5", 0).unwrap().series_id;
    let mut half = spool.begin().unwrap();
    half.write(b"half of an image").unwrap();
    std::mem::forget(half); // as if the process were killed
    spool.close(&id, 2).unwrap();
    spool.finish(&other, Some("no".into())).unwrap();
    let before = spool.series(&id).unwrap();
    drop(spool);
    let spool = open(folder.path());
    assert_eq!(spool.unfinished(), std::slice::from_ref(&id));
    let after = spool.series(&id).unwrap();
    assert_eq!((after.record.clone(), after.images), (before.record, 2));
    assert_eq!(after.record.closed, Some(2));
    assert!(after.record.name.starts_with("MR_4_"), "{}", after.record.name);
    let mut first = Vec::new();
    let path = spool.image(&id, 0).unwrap().path;
    fs::File::open(path).unwrap().read_to_end(&mut first).unwrap();
    assert_eq!(first, file("1.2.4", 2), "in the order of arrival, byte for byte");
    assert!(spool.image(&id, 2).is_none());
    assert_eq!(fs::read_dir(folder.path().join("incoming")).unwrap().count(), 0);
    assert!(!store(&spool, "1.2.4", 0).unwrap().is_new);
    assert!(store(&spool, "1.2.4", 5).unwrap().is_new);
    assert_eq!(spool.image(&id, 2).unwrap().image, 0);
}

#[test]
fn a_folder_is_for_one_process() {
    let folder = tempfile::tempdir().unwrap();
    let _spool = open(folder.path());
    let error = Spool::open(folder.path(), Limits::default()).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("another process"), "{error}");
}

#[test]
fn finished_series_make_room_and_open_ones_do_not() {
    let size = file("1.2.4", 0).len() as u64;
    let folder = tempfile::tempdir().unwrap();
    let limits = Limits { spool_bytes: 3 * size + size / 2, ..Limits::default() };
    let spool = Spool::open(folder.path(), limits.clone()).unwrap();
    let old = store(&spool, "1.2.4", 0).unwrap().series_id;
    let young = store(&spool, "1.2.5", 0).unwrap().series_id;
    let open = store(&spool, "1.2.6", 0).unwrap().series_id;
    assert_eq!(store(&spool, "1.2.6", 1).unwrap_err().status, Status::OutOfResources);
    for id in [&old, &young] {
        spool.close(id, 1).unwrap();
        spool.finish(id, None).unwrap();
    }
    store(&spool, "1.2.6", 1).unwrap();
    let images = |id: &String| spool.series(id).unwrap().images;
    assert_eq!([images(&old), images(&young), images(&open)], [0, 1, 2]);
    store(&spool, "1.2.6", 2).unwrap();
    assert_eq!([images(&old), images(&young), images(&open)], [0, 0, 3]);
    assert_eq!(store(&spool, "1.2.6", 3).unwrap_err().status, Status::OutOfResources);
    assert_eq!(images(&open), 3);
    drop(spool);
    assert_eq!(Spool::open(folder.path(), limits).unwrap().series(&open).unwrap().images, 3);
}

/// An image that comes after its series was deleted is kept by the next process.
#[test]
fn a_late_image_of_a_deleted_series_is_not_lost() {
    let folder = tempfile::tempdir().unwrap();
    let limits = Limits { keep: Duration::ZERO, ..Limits::default() };
    let spool = Spool::open(folder.path(), limits).unwrap();
    let id = store(&spool, "1.2.4", 0).unwrap().series_id;
    spool.close(&id, 1).unwrap();
    spool.finish(&id, None).unwrap();
    spool.prune();
    assert_eq!(spool.series(&id).unwrap().images, 0);
    assert!(store(&spool, "1.2.4", 1).unwrap().is_new);
    spool.prune();
    drop(spool);
    let spool = open(folder.path());
    assert_eq!(spool.unfinished(), std::slice::from_ref(&id));
    assert_eq!(spool.series(&id).unwrap().images, 1);
}

#[test]
fn too_many_series_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let spool = Spool::open(folder.path(), Limits { series: 2, ..Limits::default() }).unwrap();
    for series in ["1.2.4", "1.2.5"] {
        store(&spool, series, 0).unwrap();
    }
    assert_eq!(store(&spool, "1.2.6", 0).unwrap_err().status, Status::OutOfResources);
    store(&spool, "1.2.5", 1).unwrap();
}

/// A small file system that is full: nothing is stored, and nothing is left behind.
#[test]
fn a_full_disk_is_out_of_resources() {
    let folder = tempfile::tempdir().unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=64k", "none"])
        .arg(folder.path())
        .output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        return crate::skip::skipped("needs the right to mount a file system");
    }
    let spool = open(folder.path());
    store(&spool, "1.2.4", 0).unwrap();
    let mut incoming = spool.begin().unwrap();
    let refusal = (0..100).find_map(|_| incoming.write(&[0; 4096]).err()).unwrap();
    assert_eq!(refusal.status, Status::OutOfResources);
    drop(incoming);
    store(&spool, "1.2.4", 1).unwrap();
    let outcomes: Vec<_> = (2..40).map(|index| store(&spool, "1.2.4", index)).collect();
    let refused = outcomes.iter().filter_map(|outcome| outcome.as_ref().err());
    assert!(refused.clone().all(|refusal| refusal.status == Status::OutOfResources));
    let stored = 2 + outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    assert!(stored < 40 && refused.count() > 0);
    let id = spool.unfinished().remove(0);
    assert_eq!(spool.series(&id).unwrap().images, stored);
    drop(spool);
    assert_eq!(open(folder.path()).series(&id).unwrap().images, stored);
    assert!(std::process::Command::new("umount").arg("-l").arg(folder.path()).status().unwrap().success());
}

#[test]
fn only_this_user_can_read_a_new_spool() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let spool = folder.path().join("output/.spool");
    drop(open(&spool));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o077;
    assert_eq!(mode(&spool), 0);
    assert_ne!(mode(&folder.path().join("output")), 0);
}
