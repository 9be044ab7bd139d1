"""PyTorch's side of the comparison, a child process of compare.py: one form of one case.

    python reference.py CASE FORM FOLDER THREADS DEVICE

Reads a request a line from stdin and answers each with a line, both JSON: `load` builds the network, writes weights and
input to FOLDER and answers what our side is to load; `count` gives the floating-point operations of a run; `run` its
seconds; `save` writes what the last run gave.
"""

import json
import sys
import time
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

import lite_medsam
import vit

CASES = {
    "vit_b-1024": partial(vit.build, "vit_b"),
    "vit_h-1024": partial(vit.build, "vit_h"),
    "lite_medsam-256": partial(lite_medsam.encode, 256, 1),
    "lite_medsam-128": partial(lite_medsam.encode, 128, 1),
    "lite_medsam-256x8": partial(lite_medsam.encode, 256, 8),
    "lite_medsam-128x8": partial(lite_medsam.encode, 128, 8),
    "train-lite_medsam-128": partial(lite_medsam.train, 128),
    "train-lite_medsam-256": partial(lite_medsam.train, 256),
    "mask_decoder-4x8": lite_medsam.decode,
}


class Flops(TorchDispatchMode):
    """Counts the floating-point operations of matrix products and convolutions. (torch's FlopCounterMode also
    follows modules, and fails at one that gives a parameter out, as SAM's prompt encoder does.)"""

    total = 0

    def __torch_dispatch__(self, function, _types, arguments=(), options=None):
        output = function(*arguments, **(options or {}))
        if count := flop_registry.get(function.overloadpacket):
            self.total += count(*arguments, **(options or {}), out_val=output)
        return output


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    name, form, folder, threads, device = sys.argv[1:]
    torch.set_num_threads(int(threads))
    torch.manual_seed(0)
    answers, sys.stdout = sys.stdout, sys.stderr  # keep output of libraries out of the answers
    case, output = None, {}
    for line in sys.stdin:
        request = json.loads(line)
        answer = {}
        match request["op"]:
            case "load":
                case = CASES[name](Path(folder), device)
                answer = {"forms": list(case.references), "request": case.request}
            case "count":
                with Flops() as flops:
                    case.references[form]()
                answer = {"operations": flops.total}
            case "run":
                output = {}  # free its memory before timing
                synchronise(device)
                start = time.perf_counter()
                output = case.references[form]()
                synchronise(device)
                answer = {"seconds": time.perf_counter() - start}
            case "save":
                save_file({key: value.detach().contiguous().cpu() for key, value in output.items()}, request["output"])
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
