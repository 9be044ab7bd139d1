//! Delivery from an outbox: receivers that are away at first, that come back, and that refuse.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use dicom_dictionary_std::{tags, uids};
use dicom_object::open_file;
use self_prompt_sam::scanner::Limits;
use self_prompt_sam::scanner::network::Listen;
use self_prompt_sam::scanner::outbox::{Courier, Outbox, OutboxLimits};
use self_prompt_sam::scanner::sender::Destination;

use super::peer::{Scp, image, write_file};
use crate::skip::skipped;

const PATIENCE: Duration = Duration::from_secs(60);

/// DCMTK's receiver, until it is dropped.
struct Storescp(Child);

impl Drop for Storescp {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `None` if it is not installed; pynetdicom has a program with the same name.
fn storescp(port: u16, folder: &Path) -> Option<Storescp> {
    let program = Path::new("/usr/bin/storescp");
    if !program.exists() {
        skipped("needs the Debian package dcmtk");
        return None;
    }
    fs::create_dir_all(folder).unwrap();
    let mut command = Command::new(program);
    command.arg("-od").arg(folder).arg(port.to_string());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Some(Storescp(command.spawn().unwrap()))
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn courier(folder: &Path, to: &str) -> (Arc<Outbox>, Courier) {
    let outbox = Arc::new(Outbox::open(folder, OutboxLimits::default()).unwrap());
    let courier = Courier::start(outbox.clone(), Destination::parse(to, "MODALITY").unwrap()).unwrap();
    (outbox, courier)
}

/// Files of MR images of a series, `count` of them.
fn images(folder: &Path, count: usize) -> Vec<PathBuf> {
    let path = |index: usize| folder.join(format!("{index}.dcm"));
    (0..count).for_each(|index| write_file(&image("1.2.4", index), &path(index)));
    (0..count).map(path).collect()
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < PATIENCE, "no {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn what_waits_arrives_once_when_the_receiver_comes_even_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (at, received) = (folder.path().join("outbox"), folder.path().join("received"));
    let files = images(folder.path(), 3);
    let port = free_port();
    let to = format!("ARCHIVE@127.0.0.1:{port}");
    let (outbox, first) = courier(&at, &to);
    for (index, file) in files.iter().enumerate() {
        outbox.put(&format!("{index}.dcm"), file).unwrap();
    }
    drop(outbox);
    assert_eq!(first.finish(PATIENCE).unwrap(), 3, "nobody is there");
    let (outbox, second) = courier(&at, &to);
    thread::sleep(Duration::from_millis(500));
    assert_eq!(outbox.waiting().unwrap().len(), 3);
    let Some(_receiver) = storescp(port, &received) else { return };
    wait_until("delivery", || outbox.waiting().unwrap().is_empty());
    // What comes later is sent without delay.
    outbox.put("3.dcm", &files[0]).unwrap();
    wait_until("delivery", || outbox.waiting().unwrap().is_empty());
    drop(outbox);
    assert_eq!(second.finish(PATIENCE).unwrap(), 0);
    assert_eq!(entries(&received).len(), 3, "the receiver knows instances by their UIDs");
    let uid = |path: &Path| {
        open_file(path).unwrap().element(tags::SOP_INSTANCE_UID).unwrap().to_str().unwrap().into_owned()
    };
    let mut arrived: Vec<String> = entries(&received).iter().map(|path| uid(path)).collect();
    let mut sent: Vec<String> = files.iter().map(|path| uid(path)).collect();
    arrived.sort();
    sent.sort();
    assert_eq!(arrived, sent);
}

#[test]
fn what_is_refused_for_good_is_set_aside_and_the_rest_arrives() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().join("outbox");
    let files = images(folder.path(), 1);
    let scp = Scp::new();
    let (outbox, courier) = courier(&at, &format!("SPSAM@{}", scp.address));
    // A class that our receiver does not take, and no DICOM file.
    let mut report = image("1.2.4", 7);
    report.put_str(tags::SOP_CLASS_UID, dicom_core::VR::UI, uids::BASIC_TEXT_SR_STORAGE);
    let (report_file, text) = (folder.path().join("report"), folder.path().join("text"));
    write_file(&report, &report_file);
    fs::write(&text, "no DICOM").unwrap();
    outbox.put("a.dcm", &report_file).unwrap();
    outbox.put("b.dcm", &text).unwrap();
    outbox.put("c.dcm", &files[0]).unwrap();
    wait_until("end", || outbox.waiting().unwrap().is_empty());
    assert_eq!(scp.images(), 1);
    let refused = at.join("refused");
    let mut names: Vec<String> = entries(&refused)
        .iter()
        .map(|path| path.to_string_lossy().rsplit_once('_').unwrap().1.into())
        .collect();
    names.sort();
    assert_eq!(names, ["a.dcm", "b.dcm"]);
    // Somebody who has mended the receiver puts it back.
    let again = entries(&refused).into_iter().find(|path| path.to_string_lossy().ends_with("a.dcm")).unwrap();
    fs::copy(&files[0], &again).unwrap();
    fs::rename(&again, at.join(again.file_name().unwrap())).unwrap();
    wait_until("delivery", || outbox.waiting().unwrap().is_empty());
    assert_eq!(entries(&refused).len(), 1);
    drop(outbox);
    assert_eq!(courier.finish(PATIENCE).unwrap(), 0);
}

/// A receiver that is full for the time being refuses nothing for good.
#[test]
fn a_receiver_that_is_full_gets_it_later() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().join("outbox");
    let files = images(folder.path(), 1);
    let limits = Limits { series: 1, ..Limits::default() };
    let scp = Scp::with(limits, Listen::default());
    let mut peer = scp.peer();
    assert_eq!(peer.store(&image("1.2.99", 0), super::peer::MR), 0);
    peer.release();
    let (outbox, courier) = courier(&at, &format!("SPSAM@{}", scp.address));
    outbox.put("a.dcm", &files[0]).unwrap();
    thread::sleep(Duration::from_millis(2500));
    assert_eq!(outbox.waiting().unwrap().len(), 1, "another series is not finished");
    let id = scp.intake.spool().unfinished().remove(0);
    scp.intake.spool().finish(&id, None).unwrap();
    wait_until("delivery", || outbox.waiting().unwrap().is_empty());
    assert_eq!(scp.images(), 1);
    drop(outbox);
    assert_eq!(courier.finish(PATIENCE).unwrap(), 0);
}
