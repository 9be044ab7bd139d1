//! Every reader of external input, for any bytes: it returns values or an error, and never panics, hangs or uses
//! more memory than its input justifies. The fuzz targets (`fuzz/`) and the tests with damaged files call these
//! functions. Each returns whether it could read the bytes.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float16Array, Float32Array, Int64Array, StringArray, UInt8Array, UInt16Array};
use arrow::buffer::{Buffer, ScalarBuffer};
use dora_node_api::{MetadataParameters, Parameter};
use self_prompt_sam::bundle::{Bundle, BundleConfig};
use self_prompt_sam::dicom::{Images, TRANSFER_SYNTAXES, study};
use self_prompt_sam::message::control::{
    Ack, AckMessage, CaseMessage, Command, Order, Progress, Status, Supply, from_json, to_json,
};
use self_prompt_sam::message::{SliceHeader, decode_prompts, keys, text};
use self_prompt_sam::runtime::{Assembler, Input, InputKind, decode_window_prompts};
use self_prompt_sam::scanner::mrd::{self, Message, Meta, Position, ReadLimits, ScanHeader};
use self_prompt_sam::training::TrainingConfig;
use self_prompt_sam::volume::{CaseFiles, CasePlan, Image, read_labels};
use self_prompt_sam::weights::{list, load_strict};
use tch::nn::VarStore;
use tch::{Device, Kind};

pub use station::association;

use crate::zip::zip;

#[path = "station.rs"]
mod station;

/// Bytes of a NIfTI-1 header and of the extender.
const PAIR_HEADER: usize = 352;
const MODEL: &str = include_str!("../../models/hippocampus/model.yml");

fn in_file(name: &str, bytes: &[u8], read: impl FnOnce(&Path) -> bool) -> bool {
    let Ok(folder) = tempfile::tempdir() else { return false };
    let path = folder.path().join(name);
    fs::write(&path, bytes).is_ok() && read(&path)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let _ = encoder.write_all(bytes);
    encoder.finish().unwrap_or_default()
}

/// A NIfTI file, read as an image, as labels and as a case to plan. The first byte says how it is stored:
/// uncompressed, compressed by this function, already compressed, or as a pair of header and voxels.
pub fn volume(bytes: &[u8]) -> bool {
    let Some((&how, bytes)) = bytes.split_first() else { return false };
    let read = |path: &Path| {
        let image = Image::read(path).is_ok();
        let _ = read_labels(path);
        let Ok(config) = serde_yaml::from_str::<BundleConfig>(MODEL) else { return false };
        let files =
            CaseFiles { case_id: "case".into(), images: vec![path.into()], labels: Some(path.into()) };
        if let Ok(plan) = CasePlan::new(&files, &config, None) {
            assert!(!plan.windows().is_empty());
        }
        image
    };
    match how % 4 {
        0 => in_file("image.nii", bytes, read),
        1 => in_file("image.nii.gz", &gzip(bytes), read),
        2 => in_file("image.nii.gz", bytes, read),
        _ => {
            let (header, voxels) = bytes.split_at(bytes.len().min(PAIR_HEADER));
            in_file("image.hdr", header, |path| {
                fs::write(path.with_extension("img"), voxels).is_ok() && read(path)
            })
        }
    }
}

/// A `model.yml` and a training configuration.
pub fn bundle(bytes: &[u8]) -> bool {
    in_file("model.yml", bytes, |path| {
        let bundle = Bundle::open(path);
        if let Ok(bundle) = &bundle
            && let Ok(text) = serde_yaml::to_string(&bundle.config)
        {
            let again: Result<BundleConfig, _> = serde_yaml::from_str(&text);
            assert!(again.is_ok_and(|again| again == bundle.config), "not the same when it is written");
        }
        TrainingConfig::open(path).is_ok() || bundle.is_ok()
    })
}

/// A checkpoint. The first byte says what the bytes are: a zip archive of torch, the pickle in one that is made here, or a
/// safetensors file.
pub fn checkpoint(bytes: &[u8]) -> bool {
    let Some((&how, bytes)) = bytes.split_first() else { return false };
    match how % 3 {
        0 => in_file("model.pth", bytes, load),
        1 => {
            let storage = [0u8; 64];
            let members: [(&str, &[u8]); 3] =
                [("model/data.pkl", bytes), ("model/data/0", &storage[..16]), ("model/data/1", &storage)];
            in_file("model.pth", &zip(&members), load)
        }
        _ => in_file("model.safetensors", bytes, load),
    }
}

/// Lists a checkpoint, and loads it into variables of the names and shapes that it says it has.
fn load(path: &Path) -> bool {
    let Ok(tensors) = list(path) else { return false };
    let mut variables = VarStore::new(Device::Cpu);
    for tensor in &tensors {
        let small = tensor.shape.iter().try_fold(1i64, |size, side| size.checked_mul(*side));
        if !small.is_some_and(|size| (0..10_000).contains(&size)) || tensor.key.is_empty() {
            return false;
        }
        let mut path = variables.root();
        let (folders, name) = tensor.key.rsplit_once('.').unwrap_or(("", &tensor.key));
        for folder in folders.split('.').filter(|folder| !folder.is_empty()) {
            path = path.sub(folder);
        }
        let _ = path.f_zeros_no_train(name, &tensor.shape);
    }
    let loaded = load_strict(&mut variables, path, &[""], &[]).is_ok();
    assert!(variables.variables().values().all(|variable| variable.kind() == Kind::Float));
    loaded
}

/// A control message.
pub fn control(bytes: &[u8]) -> bool {
    let Ok(json) = std::str::from_utf8(bytes) else { return false };
    let case = from_json::<CaseMessage>(json);
    if let Ok(message) = &case
        && let Ok(json) = to_json(message)
    {
        assert!(from_json::<CaseMessage>(&json).is_ok());
    }
    [
        case.is_ok(),
        from_json::<AckMessage>(json).is_ok(),
        from_json::<Ack>(json).is_ok(),
        from_json::<Status>(json).is_ok(),
        from_json::<Order>(json).is_ok(),
        from_json::<Supply>(json).is_ok(),
        from_json::<Command>(json).is_ok(),
        from_json::<Progress>(json).is_ok(),
    ]
    .contains(&true)
}

/// What an MRD client sends: messages, until they end or one cannot be read. True if that was at the end of a message.
pub fn mrd(bytes: &[u8]) -> bool {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_time().build() else {
        return false;
    };
    let limits = ReadLimits { pixel_bytes: 1 << 24, ..ReadLimits::default() };
    runtime.block_on(async {
        let mut reader = mrd::Reader::new(bytes, limits);
        let (mut scan, mut images) = (ScanHeader::default(), mrd::Images::default());
        loop {
            match reader.next().await {
                Ok(Message::Header(text)) => scan = ScanHeader::parse(&text).unwrap_or_default(),
                Ok(Message::Image(header, layout, attributes)) => {
                    if let Ok(meta) = Meta::parse(&attributes) {
                        assert!(Meta::parse(meta.to_xml().as_bytes()).is_ok());
                    }
                    let Ok(placements) = mrd::describe(&header, &layout, &scan, Position::Centre) else {
                        continue;
                    };
                    let Ok(object) = images.object(&header, &scan, &layout, placements) else { continue };
                    assert!(object.before_pixels().is_ok(), "an image cannot be written");
                    let mut length = 0;
                    while let Ok(pixels) = reader.pixels().await
                        && !pixels.is_empty()
                    {
                        length += layout.pixel.convert(&pixels).len();
                    }
                    assert!(length <= object.pixel_bytes());
                }
                Ok(_) => {}
                Err(fault) => return matches!(fault, mrd::Fault::Left),
            }
        }
    })
}

/// A DICOM file, read as a series and image by image. The first byte says what the bytes are: a whole file, or the data set of one
/// in some transfer syntax.
pub fn dicom(bytes: &[u8]) -> bool {
    let Some((&how, bytes)) = bytes.split_first() else { return false };
    let file = match usize::from(how).checked_sub(1) {
        None => bytes.to_vec(),
        Some(syntax) => [&file_meta(TRANSFER_SYNTAXES[syntax % TRANSFER_SYNTAXES.len()]), bytes].concat(),
    };
    in_file("image.dcm", &file, |path| {
        let _ = study(path.parent().unwrap_or(path));
        let _ = Image::read(path);
        let Ok(mut images) = Images::open(path) else { return false };
        let mut read = true;
        for image in 0..images.count().min(4) {
            let placement = images.placement(image);
            let pixels = images.pixels(image);
            if let (Ok(placement), Ok(pixels)) = (&placement, &pixels) {
                assert_eq!(pixels.len(), placement.rows * placement.columns);
            }
            read &= placement.is_ok() && pixels.is_ok();
        }
        read
    })
}

/// Preamble and meta information of a DICOM file of an MR image.
fn file_meta(syntax: &str) -> Vec<u8> {
    let mut elements = Vec::new();
    for (element, uid) in [(0x02u16, "1.2.840.10008.5.1.4.1.1.4"), (0x03, "1.2.3.4"), (0x10, syntax)] {
        let length = uid.len().next_multiple_of(2);
        elements
            .extend([&[2, 0][..], &element.to_le_bytes(), b"UI", &(length as u16).to_le_bytes()].concat());
        elements.extend(uid.as_bytes());
        elements.resize(elements.len() + length - uid.len(), 0);
    }
    let length = (elements.len() as u32).to_le_bytes();
    [&[0; 128][..], b"DICM", &[2, 0, 0, 0], b"UL", &[4, 0], &length, &elements].concat()
}

const INPUTS: [Input; 4] = [
    Input { name: "a", kind: InputKind::Floats },
    Input { name: "b", kind: InputKind::Activations },
    Input { name: "c", kind: InputKind::Labels },
    Input { name: "d", kind: InputKind::Prompts },
];
const KEYS: [&str; 11] = [
    keys::SHAPE,
    keys::SESSION_ID,
    keys::SEGMENT_ID,
    keys::SEQ,
    keys::FIN,
    keys::COUNT,
    keys::ATTEMPT,
    keys::CASE_ID,
    keys::LEVEL,
    keys::LEVELS,
    keys::SLICES,
];

/// The bytes from which messages are built.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    /// Mostly small, sometimes any integer.
    fn integer(&mut self) -> i64 {
        match self.byte() {
            small @ 0..=200 => i64::from(small % 8),
            201..=220 => i64::from(self.byte()) - 128,
            221..=230 => i64::MAX - i64::from(self.byte()),
            231..=240 => i64::MIN + i64::from(self.byte()),
            _ => i64::from_le_bytes(std::array::from_fn(|_| self.byte())),
        }
    }

    fn parameter(&mut self, key: &str) -> Option<Parameter> {
        Some(match self.byte() {
            0..=15 => return None,
            16..=31 => Parameter::Bool(self.byte() & 1 > 0),
            32..=47 => Parameter::String("text".into()),
            48..=63 => Parameter::Float(f64::from(self.byte())),
            _ if key == keys::SHAPE => {
                let sides = self.byte() % 6;
                Parameter::ListInt((0..sides).map(|_| self.integer()).collect())
            }
            _ if key == keys::SESSION_ID || key == keys::CASE_ID => Parameter::String("case".into()),
            _ => Parameter::Integer(self.integer()),
        })
    }

    fn array(&mut self) -> ArrayRef {
        let kind = self.byte();
        let length = usize::from(self.byte()) % 80;
        let values: Vec<u8> = (0..length).map(|_| self.byte()).collect();
        match kind % 6 {
            0 => Arc::new(Float32Array::from_iter_values(values.into_iter().map(f32::from))),
            1 => Arc::new(UInt8Array::from(values)),
            2 => Arc::new(UInt16Array::from_iter_values(values.into_iter().map(u16::from))),
            3 => Arc::new(Float16Array::new(ScalarBuffer::from(Buffer::from_vec(vec![0u16; length])), None)),
            4 => Arc::new(Int64Array::from_iter(values.into_iter().map(|value| (value > 9).then_some(1)))),
            _ => Arc::new(StringArray::from(vec![String::from_utf8_lossy(&values).into_owned()])),
        }
    }
}

/// Messages on the four kinds of edges.
pub fn wire(bytes: &[u8]) -> bool {
    let mut bytes = Bytes(bytes);
    let mut joined = false;
    let inputs = &INPUTS[..1 + usize::from(bytes.byte()) % INPUTS.len()];
    let mut assembler = Assembler::new(inputs.to_vec());
    while !bytes.0.is_empty() {
        let input = &inputs[usize::from(bytes.byte()) % inputs.len()];
        let mut parameters = MetadataParameters::new();
        // A valid message is one byte; each of its keys may be changed.
        let header = SliceHeader {
            session_id: "run".into(),
            segment_id: 1,
            attempt: 0,
            seq: i64::from(bytes.byte() % 2),
            count: 2,
            case_id: "case".into(),
            classes: 2,
            level: None,
            slices: (input.kind == InputKind::Activations).then_some(1),
            image_size: None,
            covered: None,
            times: Default::default(),
            shape: vec![1, 4],
        };
        parameters.extend(header.to_parameters());
        for _ in 0..bytes.byte() % 4 {
            let key = KEYS[usize::from(bytes.byte()) % KEYS.len()];
            match bytes.parameter(key) {
                Some(parameter) => parameters.insert(key.into(), parameter),
                None => parameters.remove(key),
            };
        }
        let array = bytes.array();
        let _ = text(&array);
        let _ = decode_prompts(&array, 2, [2, 2]);
        let Ok(header) = SliceHeader::parse(&parameters) else { continue };
        if let Ok(Some(window)) = assembler.add(input, header, &array) {
            let count = window.header.count;
            for input in inputs.iter().filter(|input| input.kind != InputKind::Prompts) {
                assert!(window.levels(input.name).iter().all(|level| level.size()[0] == count));
            }
            let _ = decode_window_prompts(&window, [2, 2]);
            joined = true;
        }
    }
    joined
}
