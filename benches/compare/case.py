"""A benchmark case: one computation in several forms."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass
class Case:
    """One computation on one input with one set of weights."""

    # PyTorch's forms by name; each returns its outputs by name. Speeds and outputs are compared with `fp32`, the
    # code as shipped.
    references: dict[str, Callable[[], dict[str, torch.Tensor]]]
    # The request that our program gets, without the precision.
    request: dict


def picture(slices: int, side: int) -> torch.Tensor:
    """Noise at every scale, as pictures have it, from 0 to 1. [slices, 3, side, side], the channels equal."""
    image = torch.zeros(slices, 1, side, side)
    for octave in range(2, side.bit_length()):
        noise = torch.randn(slices, 1, 2**octave, 2**octave)
        image += F.interpolate(noise, size=(side, side), mode="bicubic", align_corners=False) / 2**octave
    low, high = image.amin((1, 2, 3), keepdim=True), image.amax((1, 2, 3), keepdim=True)
    return ((image - low) / (high - low)).repeat(1, 3, 1, 1)
