//! Weight files as torch writes them, valid and invalid.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use self_prompt_sam::weights::{
    CheckpointError, StoredAs, StoredTensor, list, load_strict, save_safetensors,
};
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

use crate::python::run;

static FILES: LazyLock<PathBuf> = LazyLock::new(|| run("checkpoint_reference.py"));

fn network(kind: Kind) -> VarStore {
    let store = VarStore::new(Device::Cpu);
    let path = store.root() / "net";
    let _ = (path.zeros("weight", &[2, 3]), path.zeros("bias", &[2]));
    let mut root = store.root();
    root.set_kind(kind);
    store
}

fn load(path: &Path) -> Result<VarStore, CheckpointError> {
    let mut store = network(Kind::Float);
    load_strict(&mut store, path, &["net."], &["decoder."]).map(|()| store)
}

fn values(store: &VarStore) -> Vec<f32> {
    let variables = store.variables();
    let flat = |key: &str| Vec::<f32>::try_from(variables[key].flatten(0, -1)).unwrap();
    [flat("net.weight"), flat("net.bias")].concat()
}

const EXPECTED: [f32; 8] = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 10.0, 11.0];

#[test]
fn every_layout_that_torch_writes_is_read() {
    for name in [
        "flat",
        "model",
        "state_dict",
        "parameter",
        "views",
        "half",
        "bfloat16",
        "double",
        "protocol4",
        "buffer",
        "with_metadata",
        "legacy",
    ] {
        let store = load(&FILES.join(format!("{name}.pth"))).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(values(&store), EXPECTED, "{name}");
        assert!(store.variables().values().all(|tensor| tensor.kind() == Kind::Float), "{name}");
    }
}

#[test]
fn every_bad_file_is_named_with_its_key() {
    use CheckpointError as E;
    type Check = fn(&CheckpointError) -> bool;
    let table: [(&str, &str, Check); 15] = [
        ("missing", "net.bias", |e| matches!(e, E::Missing { .. })),
        ("unexpected", "net.gain", |e| matches!(e, E::Unexpected { .. })),
        ("other_part", "head.weight", |e| matches!(e, E::Unexpected { .. })),
        ("broadcastable", "net.bias", |e| matches!(e, E::Shape { .. })),
        ("transposed", "net.weight", |e| matches!(e, E::Shape { .. })),
        ("integer", "net.bias", |e| matches!(e, E::Kind { .. })),
        ("float_buffer", "net.num_batches_tracked", |e| matches!(e, E::Kind { .. })),
        ("nan", "net.bias", |e| matches!(e, E::NonFinite { .. })),
        ("infinite", "net.bias", |e| matches!(e, E::NonFinite { .. })),
        ("overflow", "net.bias", |e| matches!(e, E::NonFinite { .. })),
        ("not_a_tensor", "net.bias", |e| matches!(e, E::NotATensor { .. })),
        ("complex", "ComplexFloatStorage", |e| matches!(e, E::Damaged { .. })),
        ("one_tensor", "state dict", |e| matches!(e, E::NotACheckpoint { .. })),
        ("module", "net", |e| matches!(e, E::NotATensor { .. })),
        ("torchscript", "TorchScript", |e| matches!(e, E::NotACheckpoint { .. })),
    ];
    for (name, word, is_right) in table {
        let error = load(&FILES.join(format!("{name}.pth"))).expect_err(name);
        let line = error.to_string();
        println!("{line}");
        assert!(is_right(&error), "{name}: {error:?}");
        assert!(line.contains(&format!("{name}.pth")) && line.contains(word), "{line}");
        assert!(!line.contains('\n'), "{line}");
    }
}

#[test]
fn files_that_are_no_checkpoints_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let good = fs::read(FILES.join("flat.pth")).unwrap();
    let error = |path: &Path| load(path).expect_err(&path.display().to_string());
    assert!(matches!(error(&write("empty.pth", b"")), CheckpointError::Truncated { .. }));
    assert!(matches!(
        error(&write("text.pth", b"hello, world of text")),
        CheckpointError::NotACheckpoint { .. }
    ));
    assert!(matches!(error(&folder.path().join("absent.pth")), CheckpointError::Io { .. }));
    for end in (4..good.len()).step_by(97) {
        let error = error(&write("cut.pth", &good[..end]));
        assert!(
            matches!(error, CheckpointError::Truncated { .. } | CheckpointError::Damaged { .. }),
            "{error}"
        );
    }
}

#[test]
fn a_flipped_bit_is_an_error_or_harmless() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("flipped.pth");
    let good = fs::read(FILES.join("flat.pth")).unwrap();
    for index in 0..good.len() {
        let mut bytes = good.clone();
        bytes[index] ^= 0x10;
        fs::write(&path, &bytes).unwrap();
        if let Ok(store) = load(&path) {
            assert_eq!(values(&store), EXPECTED, "bit in byte {index}");
        }
    }
}

#[test]
fn safetensors_are_as_strict() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("net.safetensors");
    let store = load(&FILES.join("flat.pth")).unwrap();
    save_safetensors(&store, &path, StoredAs::Float16).unwrap();
    assert_eq!(values(&load(&path).unwrap()), EXPECTED);
    let listed = list(&path).unwrap();
    assert_eq!(listed[0], StoredTensor { key: "net.bias".into(), shape: vec![2], kind: "float16" });
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file stays");

    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    assert!(matches!(load(&path), Err(CheckpointError::Truncated { .. })));

    let write = |tensors: &[(&str, Tensor)]| Tensor::write_safetensors(tensors, &path).unwrap();
    let weight = || Tensor::zeros([2, 3], (Kind::Float, Device::Cpu));
    write(&[("net.weight", weight())]);
    assert!(matches!(load(&path), Err(CheckpointError::Missing { key, .. }) if key == "net.bias"));
    write(&[("net.weight", weight()), ("net.bias", Tensor::from_slice(&[1i64, 2]))]);
    assert!(matches!(load(&path), Err(CheckpointError::Kind { key, .. }) if key == "net.bias"));
    write(&[("net.weight", weight()), ("net.bias", Tensor::from_slice(&[1f32]))]);
    assert!(matches!(load(&path), Err(CheckpointError::Shape { key, .. }) if key == "net.bias"));
}

#[test]
fn a_wrong_file_changes_no_variable() {
    for name in ["missing", "unexpected", "broadcastable", "integer"] {
        let mut store = network(Kind::Float);
        load_strict(&mut store, &FILES.join(format!("{name}.pth")), &["net."], &[]).unwrap_err();
        assert_eq!(values(&store), [0.0; 8], "{name}");
    }
}

#[test]
fn a_store_keeps_its_precision() {
    let mut store = network(Kind::BFloat16);
    load_strict(&mut store, &FILES.join("flat.pth"), &["net."], &[]).unwrap();
    assert!(store.variables().values().all(|tensor| tensor.kind() == Kind::BFloat16));
}

#[test]
fn weights_that_cannot_be_stored_leave_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("net.safetensors");
    let store = network(Kind::Float);
    let _ = tch::no_grad(|| store.variables()["net.bias"].shallow_clone().fill_(1e6));
    let error = save_safetensors(&store, &path, StoredAs::Float16).unwrap_err();
    assert!(matches!(error, CheckpointError::NonFinite { key, .. } if key == "net.bias"));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    let absent = folder.path().join("absent/net.safetensors");
    assert!(matches!(save_safetensors(&store, &absent, StoredAs::Float32), Err(CheckpointError::Io { .. })));
}
