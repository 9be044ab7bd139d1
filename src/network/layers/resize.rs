//! Resizing of images as in SAM (`ResizeLongestSide`).

use tch::{Device, Kind, Tensor};

/// `[B, C, H, W]` to `size = [height, width]`: bilinear with `align_corners = false` and antialiasing. libtorch has
/// no such operation for 16-bit floats on CPUs, so these are resized in fp32 and converted back.
pub fn resize_antialiased(images: &Tensor, size: [i64; 2]) -> Tensor {
    if images.size()[2..] == size {
        return images.shallow_clone();
    }
    let resized = |images: &Tensor| images.internal_upsample_bilinear2d_aa(size, false, None, None);
    match (images.device(), images.kind()) {
        (Device::Cpu, kind @ (Kind::BFloat16 | Kind::Half)) => {
            resized(&images.to_kind(Kind::Float)).to_kind(kind)
        }
        _ => resized(images),
    }
}
