//! Valid inputs of every reader in `parsers.rs`, from which mutation and fuzzing start.

use self_prompt_sam::scanner::mrd::{ImageHeader, encode_header, encode_text};
use serde_json::json;

use crate::nifti::Nifti;
use crate::zip::zip;

const HIPPOCAMPUS: &str = include_str!("../../models/hippocampus/model.yml");
const ACDC: &str = include_str!("../../models/acdc/model.yml");
const TRAINING: &str = include_str!("../../configs/hippocampus-scratch.yml");

/// A byte that says how the file is stored, and the file.
pub fn volumes() -> Vec<Vec<u8>> {
    let plain = Nifti {
        spacing_mm: [1.0, 1.5, 2.5],
        world_from_voxel: [[-1.0, 0.0, 0.0, 9.0], [0.0, -1.5, 0.0, 8.0], [0.0, 0.0, 2.5, -7.0]],
        ..Nifti::new(&[5, 4, 3], 4, (0..60i16).flat_map(|voxel| (voxel % 3).to_le_bytes()).collect())
    };
    let floats = Nifti {
        sides: vec![3, 3, 3, 2],
        datatype: 16,
        slope: 0.5,
        voxels: (0..54u8).flat_map(|voxel| f32::from(voxel).to_le_bytes()).collect(),
        ..plain.clone()
    };
    let extended = Nifti {
        sides: vec![6, 5],
        datatype: 2,
        extension: [&[1, 0, 0, 0, 16, 0, 0, 0, 6, 0, 0, 0][..], b"comment "].concat(),
        voxels: vec![1; 30],
        ..plain.clone()
    };
    let mut pair = [&[3u8][..], &plain.bytes()].concat();
    pair[1 + 108..1 + 112].fill(0); // vox_offset
    pair[1 + 344..1 + 348].copy_from_slice(b"ni1\0");
    [plain, floats, extended]
        .iter()
        .flat_map(|nifti| [0u8, 1].map(|how| [&[how][..], &nifti.bytes()].concat()))
        .chain([pair])
        .collect()
}

pub fn bundles() -> Vec<Vec<u8>> {
    [HIPPOCAMPUS, ACDC, TRAINING].map(|text| text.as_bytes().to_vec()).to_vec()
}

pub fn controls() -> Vec<Vec<u8>> {
    [
        json!({ "failed": { "case_id": "a", "error": "why" } }),
        json!({ "end": { "cases": 3 } }),
        json!({ "writer_id": "w", "ack": { "segment": 7 } }),
        json!({ "writer_id": "w", "ack": { "case_failed": { "case_id": "a", "error": "why" } } }),
        json!({ "writer_id": "w", "ack": { "working": [1, 2, 3] } }),
        json!({ "segments": [1, -2], "failed": [[3, "why"]] }),
        json!({ "step": { "step": 4, "attempt": 0 } }),
        json!({ "sent": { "step": 4, "waited": 0.5 } }),
        json!({ "save": 12 }),
        json!({ "learned": { "step": 1, "loss": 0.5, "gradient_norm": 1e3 } }),
        json!({ "saved": { "step": 1, "sha256": "00" } }),
        json!("hello"),
    ]
    .map(|value| value.to_string().into_bytes())
    .to_vec()
}

/// State dicts of one 2×2 tensor. The first byte says what follows: an archive, the pickle of one, or safetensors.
pub fn checkpoints() -> Vec<Vec<u8>> {
    let text = |text: &str| [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat();
    let pickle = [
        b"\x80\x02}".to_vec(),
        text("layer.weight"),
        b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec(),
        text("storage"),
        b"ctorch\nFloatStorage\n".to_vec(),
        text("0"),
        text("cpu"),
        b"K\x04tQK\x00K\x02K\x02\x86K\x02K\x01\x86\x89ccollections\nOrderedDict\n)RtRs.".to_vec(),
    ]
    .concat();
    let numbers: Vec<u8> = [1.0f32, 2.0, -3.0, 0.5].iter().flat_map(|number| number.to_le_bytes()).collect();
    let archive = zip(&[("model/data.pkl", &pickle), ("model/version", b"3\n"), ("model/data/0", &numbers)]);
    let header =
        json!({ "layer.weight": { "dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16] } }).to_string();
    let safetensors = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &numbers].concat();
    [(0u8, archive), (1, pickle), (2, safetensors)]
        .into_iter()
        .map(|(what, bytes)| [&[what][..], &bytes].concat())
        .collect()
}

/// Scans of MRD clients: with a description, images of two kinds, and samples.
pub fn mrds() -> Vec<Vec<u8>> {
    let text = |id: u8, text: &[u8]| [&[id, 0][..], &(text.len() as u32).to_le_bytes(), text].concat();
    let described = text(
        3,
        b"<ismrmrdHeader xmlns='http://www.ismrm.org/ISMRMRD'><encoding><encodingLimits><slice><maximum>1</maximum>\
        </slice></encodingLimits></encoding><sequenceParameters><TE>2.5</TE></sequenceParameters></ismrmrdHeader>",
    );
    let header = ImageHeader {
        data_type: 1,
        matrix_size: [3, 2, 1],
        field_of_view: [3.0, 2.0, 1.0],
        channels: 1,
        read_dir: [1.0, 0.0, 0.0],
        phase_dir: [0.0, 1.0, 0.0],
        slice_dir: [0.0, 0.0, 1.0],
        ..ImageHeader::default()
    };
    let attributes = "<ismrmrdMeta><meta><name>a</name><value>b</value></meta></ismrmrdMeta>";
    let image = [&encode_header(&header, attributes)[..], &[1; 12]].concat();
    let volume = ImageHeader { data_type: 7, matrix_size: [2, 1, 3], ..header };
    let volume = [&encode_header(&volume, "")[..], &[0; 48]].concat();
    let mut samples = [&1008u16.to_le_bytes()[..], &[0; 340]].concat();
    (samples[2 + 34], samples[2 + 38]) = (2, 1);
    samples.extend([0; 16]);
    let close = vec![4, 0];
    vec![
        [described, image.clone(), image.clone(), close.clone()].concat(),
        [text(3, b"Dummy XML header"), encode_text("{}"), volume, samples, close].concat(),
        image,
    ]
}

/// Messages of two slices on each edge, in the format of `parsers::wire`.
pub fn wires() -> Vec<Vec<u8>> {
    let message = |input: u8, seq: u8, kind: u8| [&[input, seq, 0, kind, 4][..], &[1, 2, 3, 4]].concat();
    // Both slices of every input: floats, activations, labels.
    let window = |edges: u8| {
        let messages = (0..=edges).zip([0, 2, 1]);
        let slices = messages.flat_map(|(input, kind)| [message(input, 0, kind), message(input, 1, kind)]);
        std::iter::once(vec![edges]).chain(slices).collect::<Vec<_>>().concat()
    };
    vec![window(0), window(1), window(2)]
}
