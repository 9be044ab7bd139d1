//! Names of files and entries of lists: nothing is left out silently, and nothing is guessed.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use self_prompt_sam::volume::dataset::Reason;
use self_prompt_sam::volume::{Discovery, LabelFiles, VolumeError, discover};

fn layout(files: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in files {
        let path = folder.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, b"").unwrap();
    }
    folder
}

fn names(found: &Discovery) -> Vec<&str> {
    found.cases.iter().map(|case| &*case.case_id).collect()
}

/// `file: reason` relative to the folder.
fn left_out(folder: &Path, found: &Discovery) -> Vec<(String, Reason)> {
    let name = |path: &Path| path.strip_prefix(folder).unwrap().display().to_string();
    let mut all: Vec<_> = found.left_out.iter().map(|file| (name(&file.path), file.reason)).collect();
    all.sort();
    all
}

#[test]
fn images_may_be_called_like_labels() {
    let folder =
        layout(&["ct_01.nii.gz", "label_free_ct_02.nii.gz", "study_03_seg.nii.gz", "study_04_gt.nii"]);
    let found = Discovery::find(folder.path(), None, 1).unwrap();
    assert_eq!(names(&found), ["ct_01", "label_free_ct_02", "study_03_seg", "study_04_gt"]);
    assert!(found.left_out.is_empty());
}

#[test]
fn what_is_left_out_has_a_reason() {
    let folder = layout(&[
        "a.nii.gz",
        "a_seg.nii.gz",
        "b_t1.nii.gz",
        "b_seg.nii.gz",
        "img0001.nii.gz",
        "label0001.nii.gz",
        "c.mha",
        "._a.nii.gz",
        "notes.txt",
        "later/d.nii.gz",
        "empty/readme",
    ]);
    let found = Discovery::find(folder.path(), None, 1).unwrap();
    assert_eq!(names(&found), ["a", "b_t1", "img0001"]);
    let expected = [
        ("a_seg.nii.gz", Reason::LabelsOfAVolume),
        ("b_seg.nii.gz", Reason::LabelsOfAVolume),
        ("c.mha", Reason::OtherFormat),
        ("label0001.nii.gz", Reason::LabelsOfAVolume),
        ("later", Reason::BesideVolumes),
    ];
    assert_eq!(left_out(folder.path(), &found), expected.map(|(name, reason)| (name.to_owned(), reason)));
    let labels = folder.path();
    let found = Discovery::find(labels, Some(labels), 1).unwrap();
    let expected = [("c.mha", Reason::OtherFormat), ("later", Reason::BesideVolumes)];
    let expected = expected.map(|(name, reason)| (name.to_owned(), reason));
    assert_eq!(left_out(folder.path(), &found)[1..], expected, "what is used as labels is not left out");
}

#[test]
fn a_folder_of_labels_is_left_out_only_where_there_are_images_elsewhere() {
    let folder = layout(&["scans/a.nii.gz", "labels_old/a.nii.gz"]);
    let found = Discovery::find(folder.path(), None, 1).unwrap();
    assert_eq!(names(&found), ["a"]);
    assert_eq!(left_out(folder.path(), &found), [("labels_old".to_owned(), Reason::LabelFolder)]);
    let folder = layout(&["labelled_study/a.nii.gz"]);
    assert_eq!(names(&Discovery::find(folder.path(), None, 1).unwrap()), ["a"]);
}

#[test]
fn two_files_that_could_be_the_labels_of_a_case_are_refused_by_name() {
    for files in [
        &["im/a.nii.gz", "lab/a.nii.gz", "lab/a_seg.nii.gz"][..],
        &["im/a.nii.gz", "lab/a_gt.nii.gz", "lab/a_seg.nii.gz"],
        &["im/a.nii.gz", "lab/x/a.nii.gz", "lab/y/a.nii.gz"],
        &["im/a.nii.gz", "lab/a.nii", "lab/a.nii.gz"],
        &["im/a_0000.nii.gz", "lab/a.nii.gz", "lab/a_0000.nii.gz"],
    ] {
        let folder = layout(files);
        let error = discover(&folder.path().join("im"), Some(&folder.path().join("lab")), 1).unwrap_err();
        assert!(matches!(error, VolumeError::AmbiguousLabels { .. }), "{files:?}: {error}");
        for file in &files[1..] {
            assert!(error.to_string().contains(file), "{file}: {error}");
        }
    }
}

#[test]
fn the_image_is_not_its_own_labels_however_its_folder_is_written() {
    let folder = layout(&["a.nii.gz"]);
    let other_way = folder.path().join("../").join(folder.path().file_name().unwrap());
    let error = discover(&folder.path().join("a.nii.gz"), Some(&other_way), 1).unwrap_err();
    assert!(matches!(error, VolumeError::MissingLabels { .. }), "{error}");
}

#[test]
fn numbered_patients_of_a_model_with_one_modality_are_patients() {
    let folder = layout(&["word_0000.nii.gz", "word_0001.nii.gz", "word_0002.nii.gz"]);
    let found = Discovery::find(folder.path(), None, 1).unwrap();
    assert_eq!(names(&found), ["word_0000", "word_0001", "word_0002"]);
    assert!(found.notes[0].contains("nnU-Net"), "{:?}", found.notes);
    let labels = layout(&["word_0000.nii.gz", "word_0001.nii.gz", "word_0002.nii.gz"]);
    let cases = discover(folder.path(), Some(labels.path()), 1).unwrap();
    assert_eq!(cases[2].labels.as_ref().unwrap().path(), labels.path().join("word_0002.nii.gz"));
    let error = discover(folder.path(), None, 2).unwrap_err().to_string();
    assert!(error.contains("word_0000") && error.contains("nnU-Net"), "{error}");
    assert_eq!(discover(folder.path(), None, 3).unwrap().len(), 1);
}

#[test]
fn lists_of_windows_programs_are_read() {
    let folder = layout(&["data/a.nii.gz", "data/b.nii.gz"]);
    let list = folder.path().join("list.txt");
    let text = "data/a.nii.gz\r\ndata/b.nii.gz\r\n";
    let units: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    for bytes in [
        text.as_bytes().to_vec(),
        [b"\xef\xbb\xbf", text.as_bytes()].concat(),
        [b"\xff\xfe", &*units].concat(),
    ] {
        fs::write(&list, bytes).unwrap();
        assert_eq!(names(&Discovery::find(&list, None, 1).unwrap()), ["a", "b"]);
    }
}

#[test]
fn a_bad_line_is_named_and_the_others_are_used() {
    let folder = layout(&["data/a.nii.gz", "data/b.nii.gz", "empty/readme"]);
    let list = folder.path().join("list.txt");
    fs::write(&list, "data/a.nii.gz\ndata/gone.nii.gz\nempty\ndata\\b.nii.gz\ndata/b.nii.gz\n").unwrap();
    let found = Discovery::find(&list, None, 1).unwrap();
    assert_eq!(names(&found), ["a", "b"]);
    let said: Vec<String> = found.unusable.iter().map(|(name, error)| format!("{name}: {error}")).collect();
    assert_eq!(said.len(), 3, "{said:?}");
    assert!(
        said[0].starts_with("gone: ") && said[0].contains("list.txt: line 2, `data/gone.nii.gz`"),
        "{said:?}"
    );
    assert!(said[1].contains("line 3, `empty`: no .nii"), "{said:?}");
    assert!(
        said[2].starts_with("b: ") && said[2].contains(r"line 4, `data\b.nii.gz`") && said[2].contains('/')
    );
    assert!(matches!(discover(&list, None, 1), Err(VolumeError::List { .. })));
}

#[test]
fn lists_that_name_nothing_or_something_twice_are_refused() {
    let folder = layout(&["data/a.nii.gz"]);
    let list = folder.path().join("list.txt");
    for (text, expected) in [
        ("\u{feff}\n# nothing\n", "list.txt: it names no volume"),
        ("gone\nlost\n", "`lost`"),
        ("data/a.nii.gz\ndata/../data/a.nii.gz\n", "case a is given twice"),
        ("list.txt\n", "too deep"),
    ] {
        fs::write(&list, text).unwrap();
        let error = Discovery::find(&list, None, 1).unwrap_err().to_string();
        assert!(error.contains(expected), "{text:?}: {error}");
    }
}

#[test]
fn names_that_are_not_utf8_become_different_readable_ones() {
    let folder = layout(&[]);
    for name in [b"caf\xe9.nii.gz", b"caf\xe8.nii.gz"] {
        fs::write(folder.path().join(OsStr::from_bytes(name)), b"").unwrap();
    }
    let found = Discovery::find(folder.path(), None, 1).unwrap();
    assert_eq!(names(&found), ["caf\u{fffd}", "caf\u{fffd}_2"]);
    let json = serde_json::to_string(&found.cases[0]).unwrap();
    assert_eq!(serde_json::from_str::<self_prompt_sam::volume::CaseFiles>(&json).unwrap(), found.cases[0]);
}

#[test]
fn a_folder_with_a_mask_for_each_class_is_the_labels_of_a_case() {
    let folder = layout(&[
        "s1/ct.nii.gz",
        "s1/segmentations/liver.nii.gz",
        "s1/segmentations/spleen.nii.gz",
        "s2/ct.nii.gz",
        "s2/segmentations/kidney.nii.gz",
    ]);
    let root = folder.path();
    let masks = |cases: &[self_prompt_sam::volume::CaseFiles]| -> Vec<String> {
        let of_case = |case: &self_prompt_sam::volume::CaseFiles| match &case.labels {
            Some(LabelFiles::Masks(masks)) => {
                masks.iter().map(|mask| format!("{} {}={}", case.case_id, mask.name, mask.value)).collect()
            }
            _ => Vec::new(),
        };
        cases.iter().flat_map(of_case).collect()
    };
    let expected = ["s1_ct liver=2", "s1_ct spleen=3", "s2_ct kidney=1"];
    assert_eq!(masks(&discover(root, Some(root), 1).unwrap()), expected);
    let apart = layout(&["a.nii.gz", "b.nii.gz", "m/a/liver.nii.gz", "m/b/masks/liver.nii.gz"]);
    let cases = discover(apart.path(), Some(&apart.path().join("m")), 1).unwrap();
    assert_eq!(masks(&cases), ["a liver=1", "b liver=1"]);
    // Labels of other patients are not masks.
    let others = layout(&["im/a.nii.gz", "im/b.nii.gz", "lab/im/a.nii.gz", "im/segmentations/a.nii.gz"]);
    for labels in ["lab", "im"] {
        let error = discover(&others.path().join("im"), Some(&others.path().join(labels)), 1).unwrap_err();
        assert!(error.to_string().ends_with("no labels for case b"), "{error}");
    }
}
