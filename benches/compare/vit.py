"""Cases with the official ViT image encoders of PyPI segment-anything 1.0, weights random."""

import copy
from functools import partial
from pathlib import Path
from types import MethodType

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import get_rel_pos

from case import Case, picture

SIZES = {
    "vit_b": {"embed_dim": 768, "depth": 12, "num_heads": 12, "global_attn_indexes": (2, 5, 8, 11)},
    "vit_h": {"embed_dim": 1280, "depth": 32, "num_heads": 16, "global_attn_indexes": (7, 15, 23, 31)},
}
IMAGE_SIZE = 1024


def build(backbone: str, folder: Path, device: str) -> Case:
    """One image: the code as shipped, under autocast, entirely in bf16, and in bf16 with fused attention."""
    encoder = ImageEncoderViT(
        img_size=IMAGE_SIZE, patch_size=16, use_rel_pos=True, window_size=14,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6), **SIZES[backbone])
    with torch.no_grad():
        for parameter in encoder.parameters():  # also tables and biases, which are initialised with zeros
            parameter.add_(torch.randn_like(parameter) * 0.02)
    weights, inputs = folder / "weights.safetensors", folder / "input.safetensors"
    save_file({f"image_encoder.{name}": value for name, value in encoder.state_dict().items()}, weights)
    # In standard deviations, as after SAM's normalisation.
    image = (picture(1, IMAGE_SIZE) - 0.5) * 4
    save_file({"image": image}, inputs)

    encoder = encoder.eval().to(device)
    half = copy.deepcopy(encoder).bfloat16()
    image = image.to(device)
    half_image = image.bfloat16()

    def fp32():
        return {"embedding": encoder(image)}

    def autocast():
        with torch.autocast(device, torch.bfloat16):
            return {"embedding": encoder(image)}

    def bf16():
        return {"embedding": half(half_image)}

    fused = fuse_attention(copy.deepcopy(half))

    def bf16_sdpa():
        return {"embedding": fused(half_image)}

    references = {"fp32": fp32, "bf16_autocast": autocast, "bf16": bf16, "bf16_sdpa": bf16_sdpa}
    return Case(
        references={name: torch.no_grad()(run) for name, run in references.items()},
        request={
            "kind": "encode", "backbone": backbone, "image_size": IMAGE_SIZE, "depth": 1, "classes": 2,
            "weights": str(weights), "input": str(inputs)})


def fuse_attention(encoder: torch.nn.Module) -> torch.nn.Module:
    """The encoder with PyTorch's fused attention; the relative positions become its mask."""
    for block in encoder.blocks:
        block.attn.forward = MethodType(fused_forward, block.attn)
    return encoder


def fused_forward(self, x: torch.Tensor) -> torch.Tensor:
    """[B, H, W, C] to the same shape."""
    _, height, width, _ = x.shape
    query, key, value = self.qkv(x).flatten(1, 2).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
    grid = query.unflatten(2, (height, width))
    along_h = torch.einsum("bnhwc,hkc->bnhwk", grid, get_rel_pos(height, height, self.rel_pos_h))
    along_w = torch.einsum("bnhwc,wkc->bnhwk", grid, get_rel_pos(width, width, self.rel_pos_w))
    bias = (along_h.unsqueeze(-1) + along_w.unsqueeze(-2)).flatten(4, 5).flatten(2, 3)
    attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    return self.proj(attended.transpose(1, 2).flatten(2).view_as(x))
