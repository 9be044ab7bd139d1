"""Weights, inputs and outputs of PyPI segment-anything 1.0, for the parity tests of src/network/sam.

Usage: sam_reference.py CASE FILE. Writes one safetensors file with the entries weights.*, input.* and output.*.
Every parameter is random, those that start as zeros or ones too: a weight that is never used must show.
"""

import sys
from functools import partial

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, TwoWayTransformer

OFFICIAL_GRID = 64


def randomised(module):
    """Adds noise to every parameter, so that none keeps a constant start value."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    return module.eval()


def weights(module):
    return {f"weights.{name}": tensor for name, tensor in module.state_dict().items()}


def encode(encoder, image, taps):
    """The inputs of the tapped blocks as [B, C, h, w], then the output."""
    tapped = {}
    for index in taps:
        encoder.blocks[index].register_forward_pre_hook(
            lambda _, inputs, index=index: tapped.__setitem__(index, inputs[0].permute(0, 3, 1, 2)))
    output = encoder(image)
    return {f"output.tap{i}": tapped[index] for i, index in enumerate(taps)} | {"output.embedding": output}


def small_vit():
    """Grid of 13 with windows of 5: padded windows, a global block between windowed ones."""
    encoder = randomised(ImageEncoderViT(
        img_size=39, patch_size=3, embed_dim=24, depth=4, num_heads=3, out_chans=20, use_rel_pos=True,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6), window_size=5, global_attn_indexes=(1,)))
    image = torch.randn(3, 3, 39, 39)
    return weights(encoder) | {"input.image": image} | encode(encoder, image, [0, 1, 2, 3])


def vit_b(image_size):
    """ViT-B with tables of 1024-pixel input; where the input is smaller, pos_embed is resized bicubically."""
    encoder = randomised(ImageEncoderViT(
        img_size=1024, patch_size=16, embed_dim=768, depth=12, num_heads=12, use_rel_pos=True,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6), window_size=14, global_attn_indexes=(2, 5, 8, 11)))
    image = torch.randn(1, 3, image_size, image_size)
    stored = {name: tensor.clone() for name, tensor in weights(encoder).items()}
    grid = image_size // 16
    if grid != OFFICIAL_GRID:
        table = encoder.pos_embed.detach().permute(0, 3, 1, 2)
        resized = F.interpolate(table, size=(grid, grid), mode="bicubic", align_corners=False)
        encoder.pos_embed = torch.nn.Parameter(resized.permute(0, 2, 3, 1))
    return stored | {"input.image": image} | encode(encoder, image, [0, 3, 6, 9])


def prompt_encoder(image_size, grid):
    """Every combination of points, boxes and masks, with labels 1, 0 and -1."""
    count = 4
    encoder = randomised(PromptEncoder(
        embed_dim=256, image_embedding_size=(grid, grid), input_image_size=(image_size, image_size),
        mask_in_chans=16))
    points = torch.rand(count, 3, 2) * image_size
    labels = torch.tensor([[1., 0., -1.], [-1., -1., -1.], [1., 1., 1.], [0., -1., 1.]])
    boxes = torch.rand(count, 4) * image_size
    masks = torch.randn(count, 1, 4 * grid, 4 * grid)
    case = weights(encoder) | {
        "input.points": points, "input.labels": labels, "input.boxes": boxes, "input.masks": masks,
        "output.dense_pe": encoder.get_dense_pe()}
    for combination in range(8):
        sparse, dense = encoder(
            (points, labels) if combination & 1 else None,
            boxes if combination & 2 else None,
            masks if combination & 4 else None)
        if combination == 0:  # upstream takes the count from the prompts and gives 1 here
            sparse, dense = sparse.expand(count, -1, -1), dense.expand(count, -1, -1, -1)
        case |= {f"output.sparse{combination}": sparse, f"output.dense{combination}": dense}
    return case


def transformer():
    module = randomised(TwoWayTransformer(depth=3, embedding_dim=48, num_heads=4, mlp_dim=80))
    image, image_pe, tokens = torch.randn(6, 48, 5, 7), torch.randn(1, 48, 5, 7), torch.randn(6, 9, 48)
    queries, keys = module(image, image_pe.expand(6, -1, -1, -1), tokens)
    return weights(module) | {
        "input.image": image, "input.image_pe": image_pe, "input.tokens": tokens,
        "output.tokens": queries, "output.image": keys}


def mask_decoder():
    """Three slices of four prompts each; upstream decodes one image at a time."""
    slices, classes, grid = 3, 4, 10
    module = randomised(MaskDecoder(
        num_multimask_outputs=3, transformer_dim=256, iou_head_depth=3, iou_head_hidden_dim=256,
        transformer=TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8)))
    embedding, image_pe = torch.randn(slices, 256, grid, grid), torch.randn(1, 256, grid, grid)
    dense = torch.randn(slices * classes, 256, grid, grid)
    case = weights(module) | {"input.embedding": embedding, "input.image_pe": image_pe, "input.dense": dense}
    for tokens in (0, 3):
        sparse = torch.randn(slices * classes, tokens, 256)
        case[f"input.sparse{tokens}"] = sparse
        for multimask in (False, True):
            outputs = [
                module(
                    image_embeddings=embedding[i:i + 1], image_pe=image_pe,
                    sparse_prompt_embeddings=sparse[i * classes:(i + 1) * classes],
                    dense_prompt_embeddings=dense[i * classes:(i + 1) * classes], multimask_output=multimask)
                for i in range(slices)]
            name = f"{tokens}{'_multimask' if multimask else ''}"
            case[f"output.masks{name}"] = torch.stack([masks for masks, _ in outputs])
            case[f"output.iou{name}"] = torch.stack([iou for _, iou in outputs])
    return case


CASES = {
    "small_vit": small_vit,
    "vit_b_256": partial(vit_b, 256),
    "vit_b_512": partial(vit_b, 512),
    "vit_b_1024": partial(vit_b, 1024),
    "prompt_encoder_1024": partial(prompt_encoder, 1024, 64),
    "prompt_encoder_256": partial(prompt_encoder, 256, 64),
    "prompt_encoder_512": partial(prompt_encoder, 512, 32),
    "transformer": transformer,
    "mask_decoder": mask_decoder,
}


def main():
    name, path = sys.argv[1:]
    torch.manual_seed(0)
    with torch.no_grad():
        tensors = CASES[name]()
    save_file({key: tensor.detach().clone().contiguous() for key, tensor in tensors.items()}, path)


if __name__ == "__main__":
    main()
