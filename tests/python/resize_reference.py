"""Bilinear resizing by torch, for tests/parity/resize.rs.

Usage: resize_reference.py OUT.safetensors

`<i>.source` [N, H, W] and `<i>.target`, its resized form.
"""

import sys

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

torch.manual_seed(7)
sizes = [
    ((256, 256), (256, 256)),
    ((256, 256), (64, 64)),
    ((64, 64), (256, 256)),
    ((160, 192), (256, 256)),
    ((17, 23), (64, 40)),
    ((23, 17), (4, 300)),
    ((1, 1), (8, 8)),
    ((1, 9), (3, 5)),
]
tensors = {}
for index, (source, target) in enumerate(sizes):
    logits = torch.randn(4, *source) * 5
    resized = F.interpolate(logits[None], size=target, mode="bilinear", align_corners=False)[0]
    tensors[f"{index}.source"] = logits
    tensors[f"{index}.target"] = resized.contiguous()
save_file(tensors, sys.argv[1])
