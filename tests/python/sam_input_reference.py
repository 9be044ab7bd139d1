"""Volumes, and what PyPI segment-anything 1.0 makes of their slices for its image encoder: `ResizeLongestSide`, then
`Sam.preprocess`. For tests/parity/sam_input.rs.

Usage: sam_input_reference.py FOLDER. Writes `<height>x<width>.nii.gz` (two slices, whole values 0 to 255), and into
`reference.safetensors` two tensors [2, 3, SIDE, SIDE] of each: `<height>x<width>.predictor`, resized in whole grey levels
as by `SamPredictor.set_image`, and `<height>x<width>.exact`, resized in fp32. `apply_image_torch` of 1.0 cannot be used
for that: it takes batch and channels for height and width.
"""

import sys
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from segment_anything.modeling import Sam
from segment_anything.utils.transforms import ResizeLongestSide

SIDE = 96
# Square or not, larger and smaller than SIDE.
SHAPES = [(96, 96), (96, 60), (40, 64), (150, 113), (77, 230), (300, 300)]
SAM = SimpleNamespace(
    pixel_mean=torch.tensor([123.675, 116.28, 103.53]).view(-1, 1, 1),
    pixel_std=torch.tensor([58.395, 57.12, 57.375]).view(-1, 1, 1),
    image_encoder=SimpleNamespace(img_size=SIDE))


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    tensors = {}
    for height, width in SHAPES:
        slices = torch.randint(256, (2, height, width)).float()
        rgb = slices[:, None].expand(-1, 3, -1, -1).contiguous()
        target = ResizeLongestSide.get_preprocess_shape(height, width, SIDE)
        exact = F.interpolate(rgb, target, mode="bilinear", align_corners=False, antialias=True)
        images = [image.permute(1, 2, 0).numpy().astype(numpy.uint8) for image in rgb]
        levels = numpy.stack([ResizeLongestSide(SIDE).apply_image(image) for image in images])
        levels = torch.from_numpy(levels).permute(0, 3, 1, 2).float()
        for name, resized in {"exact": exact, "predictor": levels}.items():
            tensors[f"{height}x{width}.{name}"] = Sam.preprocess(SAM, resized).contiguous()
        volume = nibabel.Nifti1Image(slices.numpy().transpose(2, 1, 0), numpy.diag([1.0, 1.0, 5.0, 1.0]))
        nibabel.save(volume, folder / f"{height}x{width}.nii.gz")
    save_file(tensors, folder / "reference.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
