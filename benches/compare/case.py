"""What is compared: one computation in several forms."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass
class Case:
    """One computation on one input with one set of weights."""

    # PyTorch's forms by name, each giving its outputs by name. `fp32`, the code as shipped, is what speeds and
    # outputs are compared with.
    references: dict[str, Callable[[], dict[str, torch.Tensor]]]
    # What our program is told to load, without the precision.
    request: dict


def picture(slices: int, side: int) -> torch.Tensor:
    """Noise at every scale, as pictures have it, from 0 to 1. [slices, 3, side, side], the channels equal."""
    image = torch.zeros(slices, 1, side, side)
    for octave in range(2, side.bit_length()):
        noise = torch.randn(slices, 1, 2**octave, 2**octave)
        image += F.interpolate(noise, size=(side, side), mode="bicubic", align_corners=False) / 2**octave
    low, high = image.amin((1, 2, 3), keepdim=True), image.amax((1, 2, 3), keepdim=True)
    return ((image - low) / (high - low)).repeat(1, 3, 1, 1)
