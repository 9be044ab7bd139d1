//! The header of an image, 198 bytes, packed (struct `ImageHeader` of ismrmrd.h).

use super::pixels::PixelType;

/// Size of the header.
pub const HEADER_BYTES: usize = 198;
/// `image_type` of colour images.
const RGB: u16 = 6;

/// All fields; lengths are in millimetres, directions and positions in the patient's system (LPS).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ImageHeader {
    pub version: u16,
    pub data_type: u16,
    pub flags: u64,
    pub measurement_uid: u32,
    /// Columns, rows, slices.
    pub matrix_size: [u16; 3],
    pub field_of_view: [f32; 3],
    pub channels: u16,
    pub position: [f32; 3],
    pub read_dir: [f32; 3],
    pub phase_dir: [f32; 3],
    pub slice_dir: [f32; 3],
    pub patient_table_position: [f32; 3],
    pub average: u16,
    pub slice: u16,
    pub contrast: u16,
    pub phase: u16,
    pub repetition: u16,
    pub set: u16,
    pub acquisition_time_stamp: u32,
    pub physiology_time_stamp: [u32; 3],
    pub image_type: u16,
    pub image_index: u16,
    pub image_series_index: u16,
    pub user_int: [i32; 8],
    pub user_float: [f32; 8],
    pub attribute_string_len: u32,
}

/// The pixels behind a header: x fastest, then y, z, channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    pub pixel: PixelType,
    pub columns: usize,
    pub rows: usize,
    pub slices: usize,
    pub channels: usize,
    pub is_colour: bool,
}

impl Layout {
    /// Bytes of all pixels.
    pub fn bytes(&self) -> u64 {
        [self.columns, self.rows, self.slices, self.channels, self.pixel.bytes()]
            .iter()
            .fold(1, |product: u64, &side| product.saturating_mul(side as u64))
    }
}

/// Takes fields from the front.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let Some((first, rest)) = self.0.split_first_chunk() else { return [0; N] };
        self.0 = rest;
        *first
    }

    fn short(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }

    fn long(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn shorts<const N: usize>(&mut self) -> [u16; N] {
        std::array::from_fn(|_| self.short())
    }

    fn longs<const N: usize>(&mut self) -> [u32; N] {
        std::array::from_fn(|_| self.long())
    }

    fn floats<const N: usize>(&mut self) -> [f32; N] {
        self.longs().map(f32::from_bits)
    }
}

impl ImageHeader {
    /// Reads the fields.
    pub fn parse(bytes: &[u8; HEADER_BYTES]) -> Self {
        let mut fields = Fields(bytes);
        let [version, data_type] = fields.shorts();
        let flags = u64::from_le_bytes(fields.take());
        let measurement_uid = fields.long();
        let (matrix_size, field_of_view, channels) = (fields.shorts(), fields.floats(), fields.short());
        let [position, read_dir, phase_dir, slice_dir, patient_table_position]: [[f32; 3]; 5] =
            std::array::from_fn(|_| fields.floats());
        let [average, slice, contrast, phase, repetition, set] = fields.shorts();
        let (acquisition_time_stamp, physiology_time_stamp) = (fields.long(), fields.longs());
        let [image_type, image_index, image_series_index] = fields.shorts();
        let (user_int, user_float) = (fields.longs().map(|bits: u32| bits as i32), fields.floats());
        Self {
            version,
            data_type,
            flags,
            measurement_uid,
            matrix_size,
            field_of_view,
            channels,
            position,
            read_dir,
            phase_dir,
            slice_dir,
            patient_table_position,
            average,
            slice,
            contrast,
            phase,
            repetition,
            set,
            acquisition_time_stamp,
            physiology_time_stamp,
            image_type,
            image_index,
            image_series_index,
            user_int,
            user_float,
            attribute_string_len: fields.long(),
        }
    }

    /// The header as it is sent.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        let shorts = |bytes: &mut Vec<u8>, values: &[u16]| {
            values.iter().for_each(|value| bytes.extend(value.to_le_bytes()));
        };
        let floats = |bytes: &mut Vec<u8>, values: &[f32]| {
            values.iter().for_each(|value| bytes.extend(value.to_le_bytes()));
        };
        shorts(&mut bytes, &[self.version, self.data_type]);
        bytes.extend(self.flags.to_le_bytes());
        bytes.extend(self.measurement_uid.to_le_bytes());
        shorts(&mut bytes, &self.matrix_size);
        floats(&mut bytes, &self.field_of_view);
        shorts(&mut bytes, &[self.channels]);
        for vector in
            [self.position, self.read_dir, self.phase_dir, self.slice_dir, self.patient_table_position]
        {
            floats(&mut bytes, &vector);
        }
        let Self { average, slice, contrast, phase, repetition, set, .. } = *self;
        shorts(&mut bytes, &[average, slice, contrast, phase, repetition, set]);
        bytes.extend(self.acquisition_time_stamp.to_le_bytes());
        self.physiology_time_stamp.iter().for_each(|stamp| bytes.extend(stamp.to_le_bytes()));
        shorts(&mut bytes, &[self.image_type, self.image_index, self.image_series_index]);
        self.user_int.iter().for_each(|value| bytes.extend(value.to_le_bytes()));
        floats(&mut bytes, &self.user_float);
        bytes.extend(self.attribute_string_len.to_le_bytes());
        bytes
    }

    /// What follows the attributes.
    ///
    /// # Errors
    /// A type of pixels that is unknown, so that nobody knows where the image ends.
    pub fn layout(&self) -> Result<Layout, String> {
        let pixel = PixelType::of(self.data_type)
            .ok_or_else(|| format!("an image of data type {}, which is unknown", self.data_type))?;
        let [columns, rows, slices] = self.matrix_size.map(usize::from);
        let is_colour = self.image_type == RGB;
        Ok(Layout { pixel, columns, rows, slices, channels: self.channels.into(), is_colour })
    }
}
