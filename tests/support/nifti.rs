//! NIfTI-1 files for tests.

use std::path::{Path, PathBuf};

/// The header fields of a test file.
#[derive(Debug, Clone)]
pub struct Nifti {
    pub sides: Vec<i16>,
    /// NIfTI's code of the type of the voxels.
    pub datatype: i16,
    pub spacing_mm: [f32; 3],
    /// The rows of the sform.
    pub world_from_voxel: [[f32; 4]; 3],
    pub slope: f32,
    /// The bytes between header and voxels; the first four are the extender.
    pub extension: Vec<u8>,
    pub voxels: Vec<u8>,
}

impl Nifti {
    /// A file with voxels of 1 mm, the first of them at the origin.
    pub fn new(sides: &[i16], datatype: i16, voxels: Vec<u8>) -> Self {
        let file = Self {
            sides: sides.to_vec(),
            datatype,
            spacing_mm: [0.0; 3],
            world_from_voxel: [[0.0; 4]; 3],
            slope: 1.0,
            extension: vec![0; 4],
            voxels,
        };
        file.spaced([1.0; 3])
    }

    /// The same with voxels of this size, the first of them at the origin.
    pub fn spaced(self, spacing_mm: [f32; 3]) -> Self {
        let [dx, dy, dz] = spacing_mm;
        let world_from_voxel = [[dx, 0.0, 0.0, 0.0], [0.0, dy, 0.0, 0.0], [0.0, 0.0, dz, 0.0]];
        Self { spacing_mm, world_from_voxel, ..self }
    }

    /// The file, little-endian.
    pub fn bytes(&self) -> Vec<u8> {
        let mut header = vec![0u8; 348];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &348i32.to_le_bytes());
        let mut dim = [1i16; 8];
        dim[0] = self.sides.len() as i16;
        dim[1..=self.sides.len()].copy_from_slice(&self.sides);
        put(40, &dim.map(i16::to_le_bytes).concat());
        let bits = match self.datatype {
            2 | 256 => 8,
            4 | 512 => 16,
            8 | 16 | 768 => 32,
            _ => 64,
        };
        put(70, &[self.datatype, bits].map(i16::to_le_bytes).concat());
        let [dx, dy, dz] = self.spacing_mm;
        put(76, &[1.0, dx, dy, dz, 1.0, 0.0, 0.0, 0.0].map(f32::to_le_bytes).concat());
        put(108, &((348 + self.extension.len()) as f32).to_le_bytes());
        put(112, &self.slope.to_le_bytes());
        put(123, &[2]); // mm
        put(254, &1i16.to_le_bytes()); // sform: scanner
        put(280, &self.world_from_voxel.concat().iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>());
        put(344, b"n+1\0");
        [header, self.extension.clone(), self.voxels.clone()].concat()
    }
    pub fn write(&self, path: &Path) -> PathBuf {
        std::fs::write(path, self.bytes()).unwrap();
        path.into()
    }
}
