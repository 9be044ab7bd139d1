"""Weight files as torch writes them, good and bad, for a network with `net.weight` [2, 3] and `net.bias` [2].

Usage: checkpoint_reference.py FOLDER
"""

import argparse
import sys
from collections import OrderedDict
from pathlib import Path

import torch

WEIGHT = torch.arange(6.0).reshape(2, 3)
BIAS = torch.tensor([10.0, 11.0])


def state(**changes) -> OrderedDict:
    good = OrderedDict({"net.weight": WEIGHT, "net.bias": BIAS})
    good.update(changes)
    return OrderedDict((key, value) for key, value in good.items() if value is not None)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)

    def save(name, value, **options):
        torch.save(value, folder / name, **options)

    # Good ones.
    save("flat.pth", state())
    save("model.pth", {"epoch": 3, "args": argparse.Namespace(lr=0.1), "model": state(), "best": 0.5})
    weights = torch.nn.Linear(3, 2).requires_grad_()
    optimizer = torch.optim.SGD(weights.parameters(), 0.1, momentum=0.9)
    weights(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    save("state_dict.pth", {"state_dict": state(), "optimizer": optimizer.state_dict()})
    save("parameter.pth", {key: torch.nn.Parameter(value) for key, value in state().items()})
    both = torch.cat([torch.full((4,), 99.0), WEIGHT.t().flatten(), BIAS])
    views = {"net.weight": both[4:10].view(3, 2).t(), "net.bias": both[10:]}
    assert torch.equal(views["net.weight"], WEIGHT) and not views["net.weight"].is_contiguous()
    save("views.pth", views)
    for name, kind in {"half": torch.float16, "bfloat16": torch.bfloat16, "double": torch.float64}.items():
        save(f"{name}.pth", OrderedDict((key, value.to(kind)) for key, value in state().items()))
    save("protocol4.pth", state(), pickle_protocol=4)
    batches = {"net.num_batches_tracked": torch.tensor(7)}
    save("buffer.pth", state(**batches))
    module = torch.nn.Sequential(OrderedDict(net=torch.nn.Linear(3, 2)))
    module.load_state_dict(state())
    save("with_metadata.pth", module.state_dict())
    save("module.pth", module)
    save("legacy.pth", state(), _use_new_zipfile_serialization=False)

    # Bad ones.
    save("missing.pth", state(**{"net.bias": None}))
    save("unexpected.pth", state(**{"net.gain": BIAS}))
    save("other_part.pth", state(**{"head.weight": BIAS}))
    save("broadcastable.pth", state(**{"net.bias": BIAS[:1]}))
    save("transposed.pth", state(**{"net.weight": WEIGHT.t()}))
    save("integer.pth", state(**{"net.bias": BIAS.long()}))
    save("float_buffer.pth", state(**{"net.num_batches_tracked": torch.tensor(7.0)}))
    save("nan.pth", state(**{"net.bias": torch.tensor([1.0, float("nan")])}))
    save("infinite.pth", state(**{"net.bias": torch.tensor([1.0, float("inf")])}))
    save("overflow.pth", state(**{"net.bias": torch.tensor([1.0, 1e300], dtype=torch.float64)}))
    save("not_a_tensor.pth", state(**{"net.bias": [10.0, 11.0]}))
    save("complex.pth", state(**{"net.bias": BIAS.to(torch.complex64)}))
    save("one_tensor.pth", BIAS)
    torch.jit.save(torch.jit.script(module), folder / "torchscript.pth")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
