//! Box prompts and the way from pixels of a slice to pixels of the model input.

use super::regions::Region;

/// Box `(x0, y0, x1, y1)` of a region in pixel indices of the slice, both corners inside as MedSAM has them.
pub fn region_box(region: &Region) -> [f32; 4] {
    let ([x0, x1], [y0, y1]) = (region.bounds.x, region.bounds.y);
    [x0, y0, x1, y1].map(|index| index as f32)
}

/// Pixel index `(x, y)` of a slice of `plane = [height, width]` pixels that is scaled to a model input of
/// `image_size` × `image_size`, as a pixel index of the model input. Pixel centres fall on pixel centres, as
/// in bilinear resizing with `align_corners = false`; the model input's own pixels stay as they are.
pub fn model_from_slice([x, y]: [f32; 2], plane: [usize; 2], image_size: i64) -> [f32; 2] {
    let [height, width] = plane;
    let scaled = |index: f32, side: usize| (index + 0.5) * image_size as f32 / side as f32 - 0.5;
    [scaled(x, width), scaled(y, height)]
}
