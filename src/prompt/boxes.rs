//! Box prompts, and the transformation from slice pixels to model input pixels.

use super::regions::Region;

/// Bounding box `(x0, y0, x1, y1)` of a region in slice pixel indices, both corners inclusive as in MedSAM.
pub fn region_box(region: &Region) -> [f32; 4] {
    let ([x0, x1], [y0, y1]) = (region.bounds.x, region.bounds.y);
    [x0, y0, x1, y1].map(|index| index as f32)
}

/// Converts a pixel index `(x, y)` of a slice of `plane = [height, width]` pixels to a pixel index of the model
/// input of `image_size` × `image_size` pixels to which the slice is scaled. Pixel centres map to pixel
/// centres, as in bilinear resizing with `align_corners = false`.
pub fn model_from_slice([x, y]: [f32; 2], plane: [usize; 2], image_size: i64) -> [f32; 2] {
    let [height, width] = plane;
    let scaled = |index: f32, side: usize| (index + 0.5) * image_size as f32 / side as f32 - 0.5;
    [scaled(x, width), scaled(y, height)]
}
