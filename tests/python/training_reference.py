"""Losses and gradients of one window by a small PyTorch model, for tests/parity/training.rs.

The model is written from the paper and on the modules of segment-anything 1.0 (torch 2.11.0); prompts are made with
scipy 1.17.1. It has every part of the paper: MAdapter, DFusedAdapters, depth position embeddings, MSPGenerator with
deep supervision, self-made point, box and mask prompts, mask decoder, MC-Adapter.

Usage: training_reference.py IN.safetensors OUT.safetensors. IN has weights (sam/… and trained/…), the window `images`
[M, D, H, W] and its `labels` [D, H, W]. OUT has for stage1 (generator's loss alone) and stage2 (both losses)
<stage>/loss.auxiliary, <stage>/loss.final and <stage>/<weight> with the gradients.
"""

import sys
from functools import partial

import numpy as np
import scipy.ndimage as ndi
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, TwoWayTransformer

IMAGE_SIZE, PATCH_SIZE, TAPS = 64, 4, (0, 3)
GRID = IMAGE_SIZE // PATCH_SIZE

data = load_file(sys.argv[1])
images, labels = data.pop("images"), data.pop("labels").long()
DEPTH, HEIGHT, WIDTH = labels.shape
weights = {name: tensor.requires_grad_() for name, tensor in data.items()}
added = {name.removeprefix("trained/"): tensor for name, tensor in weights.items() if name.startswith("trained/")}


class Added:
    """Added weights below a name."""

    def __init__(self, name=""):
        self.name = name

    def __truediv__(self, part):
        return Added(f"{self.name}.{part}" if self.name else str(part))

    def __contains__(self, part):
        return any(key.startswith(f"{self.name}.{part}.") for key in added)

    def __getitem__(self, part):
        return added[f"{self.name}.{part}"]

    def linear(self, x):
        return F.linear(x, self["weight"], self["bias"])

    def norm(self, x):
        return F.instance_norm(x, weight=self["weight"], bias=self["bias"], eps=1e-5)


def sam_module(module, prefix):
    """Gives a module of segment-anything its weights, as the leaves whose gradients are asked for."""
    for name, _ in list(module.named_parameters()) + list(module.named_buffers()):
        owner, _, attribute = name.rpartition(".")
        owner = module.get_submodule(owner)
        owner._parameters.pop(attribute, None)
        owner._buffers.pop(attribute, None)
        setattr(owner, attribute, weights[f"sam/{prefix}.{name}"])
    return module


def adapter(w, x):
    """DFusedAdapter on [D, …, C]: down, GELU, depth MLP with a skip, up."""
    hidden = F.gelu((w / "down").linear(x))
    by_depth = hidden.movedim(0, -1)
    mixed = (w / "depth_shrink").linear(F.gelu((w / "depth_expand").linear(by_depth)))
    return (w / "up").linear(hidden + mixed.movedim(-1, 0))


def modality_adapter(w, volume):
    """[M, D, H, W] to [D, 3, S, S]."""
    conv = lambda name, x: F.conv3d(x, (w / name)["weight"], (w / name)["bias"], padding=1)
    x = F.gelu((w / "first_norm").norm(conv("first", volume[None])))
    index = 0
    while index in w / "doublings":
        d = w / "doublings" / index
        x = F.gelu((d / "norm").norm(F.conv_transpose3d(x, d["weight"], d["bias"], stride=(1, 2, 2))))
        index += 1
    assert x.shape[-1] == IMAGE_SIZE
    x = conv("last", F.gelu((w / "refine_norm").norm(conv("refine", x))))
    grey = volume.mean(0)[:, None]
    resized = F.interpolate(grey, (IMAGE_SIZE, IMAGE_SIZE), mode="bilinear", antialias=True)
    return resized.expand(-1, 3, -1, -1) + x[0].transpose(0, 1)


def encode(rgb):
    encoder = sam_module(ImageEncoderViT(
        img_size=IMAGE_SIZE, patch_size=PATCH_SIZE, embed_dim=160, depth=6, num_heads=5, use_rel_pos=True,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6), window_size=8, global_attn_indexes=(2, 5)), "image_encoder")
    w = Added("image_encoder")
    x = encoder.patch_embed(rgb) + encoder.pos_embed + w["depth_pos_embed"][0]
    taps = []
    for index, block in enumerate(encoder.blocks):
        if index in TAPS:
            taps.append(x.permute(0, 3, 1, 2))
        normed = block.norm1(x)
        if block.window_size > 0:
            from segment_anything.modeling.image_encoder import window_partition, window_unpartition
            windows, padded = window_partition(normed, block.window_size)
            attended = window_unpartition(block.attn(windows), block.window_size, padded, x.shape[1:3])
        else:
            attended = block.attn(normed)
        b = w / "blocks" / index
        x = x + attended + adapter(b / "adapter_attn", attended)
        normed = block.norm2(x)
        x = x + block.mlp(normed) + 0.5 * adapter(b / "adapter_mlp", normed)
    embedding = encoder.neck(x.permute(0, 3, 1, 2))
    return embedding, taps + [embedding]


def norm_act(w, x):
    """[D, C, h, w]: instance normalisation of the window, LeakyReLU."""
    return F.leaky_relu(w.norm(x.transpose(0, 1)[None])[0].transpose(0, 1), 0.01)


def generate(taps):
    """Masks of every level, the finest first, each [N, D, h, w]."""
    conv = lambda w, x, padding: norm_act(w / "norm", F.conv2d(x, (w / "conv")["weight"], padding=padding))
    double = lambda w, x: norm_act(w / "norm", F.conv_transpose2d(x, (w / "conv")["weight"], (w / "conv")["bias"] if
                                                                  f"{w.name}.conv.bias" in added else None, stride=2))
    taps, x, heads, index = list(taps), None, [], 0
    while index in Added("generator.levels"):
        w = Added("generator.levels") / index
        if "doubling" in w:
            x = double(w / "doubling", x)
        if "tap" in w:
            tap = conv(w / "tap" / "reduce", taps.pop(), 0)
            step = 0
            while step in w / "tap" / "doublings":
                tap = double(w / "tap" / "doublings" / step, tap)
                step += 1
            x = tap if x is None else torch.cat([x, tap], 1)
        if "depth_conv" in w:
            c = w / "depth_conv"
            mixed = F.conv3d(x.transpose(0, 1)[None], (c / "conv")["weight"], padding=1)[0].transpose(0, 1)
            x = norm_act(c / "norm", mixed)
        x = conv(w / "block" / "second", conv(w / "block" / "first", x, 1), 1)
        head = (w / "head")
        heads.append(F.conv2d(x, head["weight"], head["bias"]).transpose(0, 1))
        index += 1
    assert not taps and heads[-1].shape[-2:] == (HEIGHT, WIDTH)
    return heads[::-1]


def prompts(masks):
    """Point, box and mask of each slice and class from logits [N, D, H, W]: [D·N, …], classes fastest."""
    classes = len(masks)
    winners = masks.argmax(0).numpy()
    scale = np.array([IMAGE_SIZE / WIDTH, IMAGE_SIZE / HEIGHT])
    points, boxes, present = [], [], []
    for winner in winners:
        for c in range(classes):
            components, count = ndi.label(winner == c, structure=np.ones((3, 3)))
            if count == 0:
                points.append(np.zeros(2)), boxes.append(np.zeros(4)), present.append(-1)
                continue
            sizes = np.bincount(components.ravel())[1:]
            region = np.isin(components, 1 + np.flatnonzero(2 * sizes >= sizes.max()))
            rows, columns = np.nonzero(region)
            deepest = np.unravel_index(ndi.distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1].argmax(), region.shape)
            corners = np.array([[columns.min(), rows.min()], [columns.max(), rows.max()]])
            to_model = lambda xy: (np.asarray(xy) + 0.5) * scale - 0.5
            points.append(to_model(deepest[::-1])), boxes.append(to_model(corners).ravel()), present.append(1)
    logits = F.interpolate(masks.transpose(0, 1), (4 * GRID, 4 * GRID), mode="bilinear", align_corners=False)
    return (torch.tensor(np.array(points)).float(), torch.tensor(np.array(boxes)).float(), torch.tensor(present),
            logits.reshape(-1, 1, 4 * GRID, 4 * GRID))


def embed_prompts(encoder, prompt):
    points, boxes, present, masks = prompt
    point = encoder._embed_points(points[:, None], present[:, None], pad=False)
    corners = encoder._embed_boxes(boxes)
    corners = torch.where((present > 0)[:, None, None], corners, encoder.not_a_point_embed.weight)
    return torch.cat([point, corners], 1), encoder._embed_masks(masks)


def decode(embedding, prompt, classes):
    prompt_encoder = sam_module(PromptEncoder(
        embed_dim=256, image_embedding_size=(GRID, GRID), input_image_size=(IMAGE_SIZE, IMAGE_SIZE),
        mask_in_chans=16), "prompt_encoder")
    decoder = sam_module(MaskDecoder(
        num_multimask_outputs=3, transformer_dim=256, iou_head_depth=3, iou_head_hidden_dim=256,
        transformer=TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8)), "mask_decoder")
    w = Added("mask_decoder")
    sparse, dense = embed_prompts(prompt_encoder, prompt)
    count = DEPTH * classes
    position = (prompt_encoder.get_dense_pe() + w["depth_pos_embed"]).repeat_interleave(classes, 0)
    as_tokens = lambda image: image.flatten(2).transpose(1, 2)
    output = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight], 0)
    tokens_start = torch.cat([output[None].expand(count, -1, -1), sparse], 1)
    image, position = as_tokens(embedding.repeat_interleave(classes, 0) + dense), as_tokens(position)

    def adapted(name, x):
        return adapter(name, x.reshape(DEPTH, -1, x.shape[-1])).view_as(x)

    after = lambda name, x: x + adapted(name, x)
    tokens = tokens_start
    for index, layer in enumerate(decoder.transformer.layers):
        a = w / "transformer" / "layers" / index
        if layer.skip_first_layer_pe:
            tokens = after(a / "adapter_self_attn", layer.self_attn(q=tokens, k=tokens, v=tokens))
        else:
            q = tokens + tokens_start
            tokens = tokens + after(a / "adapter_self_attn", layer.self_attn(q=q, k=q, v=tokens))
        tokens = layer.norm1(tokens)
        q, k = tokens + tokens_start, image + position
        tokens = tokens + after(a / "adapter_token_to_image", layer.cross_attn_token_to_image(q=q, k=k, v=image))
        tokens = layer.norm2(tokens)
        tokens = layer.norm3(tokens + layer.mlp(tokens) + 0.5 * adapted(a / "adapter_mlp", tokens))
        q, k = tokens + tokens_start, image + position
        image = image + after(a / "adapter_image_to_token", layer.cross_attn_image_to_token(q=k, k=q, v=tokens))
        image = layer.norm4(image)
    q, k = tokens + tokens_start, image + position
    attended = decoder.transformer.final_attn_token_to_image(q=q, k=k, v=image)
    tokens = decoder.transformer.norm_final_attn(
        tokens + after(w / "transformer" / "adapter_final_attn", attended))

    upscaled = decoder.output_upscaling(image.transpose(1, 2).view(count, 256, GRID, GRID))
    kernel = decoder.output_hypernetworks_mlps[0](tokens[:, 1])
    masks = (kernel[:, None] @ upscaled.flatten(2)).view(DEPTH, classes, 4 * GRID, 4 * GRID)

    c = Added("classes_adapter")
    masks = masks.transpose(0, 1)[None]
    conv = lambda name, x: F.conv3d(x, (c / name)["weight"], (c / name)["bias"], padding=1)
    masks = (masks + conv("shrink", F.gelu((c / "norm").norm(conv("expand", masks)))))[0]
    return F.interpolate(masks.transpose(0, 1), (HEIGHT, WIDTH), mode="bilinear", align_corners=False).transpose(0, 1)


def loss(logits):
    """Cross entropy and 1 - Dice without background; logits [N, D, h, w]."""
    size = logits.shape[2:]
    truth = F.interpolate(labels[:, None].float(), size, mode="nearest-exact")[:, 0].long()
    hot = F.one_hot(truth, len(logits)).permute(3, 0, 1, 2)[1:]
    p = logits.softmax(0)[1:]
    total = lambda x: x.sum((1, 2, 3))
    dice = (2 * total(p * hot) + 1e-5) / (total(p) + total(hot) + 1e-5)
    return F.cross_entropy(logits[None], truth[None]) + 1 - dice.mean()


results = {}
for stage in ("stage1", "stage2"):
    for tensor in weights.values():
        tensor.grad = None
    embedding, taps = encode(modality_adapter(Added("modality_adapter"), images))
    heads = generate(taps)
    halves = [0.5**level for level in range(len(heads))]
    auxiliary = sum(weight / sum(halves) * loss(head) for weight, head in zip(halves, heads))
    total = auxiliary
    results[f"{stage}/loss.auxiliary"] = auxiliary.detach().clone()
    if stage == "stage2":
        final = loss(decode(embedding, prompts(heads[0].detach()), len(heads[0])))
        results[f"{stage}/loss.final"] = final.detach().clone()
        total = auxiliary + final
    total.backward()
    results |= {f"{stage}/{name}": t.grad.clone() for name, t in weights.items() if t.grad is not None}
save_file(results, sys.argv[2])
