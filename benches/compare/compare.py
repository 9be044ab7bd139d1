"""Times the reference implementations in PyTorch and ours in turn, on the same inputs and weights.

    cargo bench --bench compare -- [--cases vit_b-1024,...] [--rounds 5] [--threads N] [--device cpu] [--json FILE]

Every round runs each form of a case once, in alternating order; a ratio is that of two times of the same round. A
form's error is the largest and the mean difference of its outputs from those of `reference fp32`, as fractions of the
largest value of the latter; of several outputs (gradients) that with the largest counts.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

import lite_medsam
import vit
from ours import Ours

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
# Minutes a round and 10 GB on a CPU.
CUDA_ONLY = {"vit_h-1024"}
# A better form than what is shipped, on a GPU; on a CPU entirely bf16 is.
CUDA_FORMS = {"bf16_sdpa"}
SIDE = 2048


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


def timed(run, device: str):
    synchronise(device)
    start = time.perf_counter()
    output = run()
    synchronise(device)
    return time.perf_counter() - start, output


def matrix_peak(device: str) -> dict[str, float]:
    """FLOP/s of a matrix product of SIDE³, the best of ten."""
    peaks = {}
    for name, kind in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        a, b = (torch.randn(SIDE, SIDE, device=device).to(kind) for _ in range(2))
        peaks[name] = 2 * SIDE**3 / min(timed(lambda: a @ b, device)[0] for _ in range(10))
    return peaks


def errors(found: dict, expected: dict) -> dict[str, float]:
    """Largest and mean difference, each as a fraction of the expected output's largest value."""
    if found.keys() != expected.keys():
        raise SystemExit(f"outputs differ: {sorted(found.keys() ^ expected.keys())[:3]}")
    result = {"max": 0.0, "mean": 0.0}
    for name, truth in expected.items():
        truth = truth.float().cpu()
        if found[name].shape != truth.shape:
            raise SystemExit(f"{name}: shape {list(found[name].shape)}, expected {list(truth.shape)}")
        difference = (found[name].float().cpu() - truth).abs() / truth.abs().max()
        result["max"] = max(result["max"], difference.max().item())
        result["mean"] = max(result["mean"], difference.mean().item())
    return result


def keep(outputs: dict) -> dict:
    return {name: tensor.detach().clone() for name, tensor in outputs.items()}


def compare(name: str, arguments: argparse.Namespace) -> dict:
    """All rounds of one case."""
    device = arguments.device
    torch.manual_seed(0)
    peak = matrix_peak(device)
    with tempfile.TemporaryDirectory() as folder, Ours(arguments.ours, arguments.threads, device) as ours:
        folder = Path(folder)
        case = CASES[name](folder, device)
        forms = arguments.references or case.references.keys() - (CUDA_FORMS if device == "cpu" else set())
        if unknown := set(forms) - case.references.keys():
            raise SystemExit(f"{name} has no form {', '.join(sorted(unknown))}; it has {', '.join(case.references)}")
        # Every form once to warm up and for its outputs; fp32 always, for what is right and the operations.
        with Flops() as flops:
            truth = keep(case.references["fp32"]())
        runs, errors_of, peaks = {}, {}, {}
        for form, run in case.references.items():
            if form not in forms:
                continue
            label = f"reference {form}"
            errors_of[label] = {"max": 0.0, "mean": 0.0} if form == "fp32" else errors(keep(run()), truth)
            runs[label] = lambda run=run: timed(run, device)[0]
            peaks[label] = peak[form.split("_")[0]]
        for precision in arguments.precisions:
            kind = ours.load(precision, precision, case.request)
            label = f"ours {kind}"
            if label in runs:
                continue
            ours.run(precision)
            errors_of[label] = errors(ours.output(precision, folder), truth)
            runs[label] = partial(ours.run, precision)
            peaks[label] = peak.get(kind, peak["bf16"])
        seconds = {label: [] for label in runs}
        for number in range(arguments.rounds):
            for label in list(runs) if number % 2 == 0 else reversed(runs):
                seconds[label].append(runs[label]())
    median = {label: statistics.median(times) for label, times in seconds.items()}
    return {
        "case": name,
        "gflop": flops.total / 1e9,
        "peak_gflop_per_second": {kind: rate / 1e9 for kind, rate in peak.items()},
        "forms": [
            {
                "form": label, "seconds": median[label], "all_seconds": seconds[label],
                "fraction_of_peak": flops.total / median[label] / peaks[label], "error": errors_of[label],
            }
            for label in runs
        ],
        "ratios": [
            {"ours": mine, "reference": theirs} | spread(seconds[theirs], seconds[mine])
            for mine in runs if mine.startswith("ours") for theirs in runs if theirs.startswith("reference")
        ],
    }


def spread(theirs: list[float], mine: list[float]) -> dict[str, float]:
    ratios = [a / b for a, b in zip(theirs, mine)]
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}


def show(result: dict) -> None:
    peak = ", ".join(f"{kind} {rate:.0f}" for kind, rate in result["peak_gflop_per_second"].items())
    print(f"\n{result['case']}: {result['gflop']:.1f} GFLOP; matrix product {SIDE}³, GFLOP/s: {peak}")
    print(f"  {'form':26} {'median s':>9} {'of peak':>8} {'max err':>9} {'mean err':>9}")
    for form in result["forms"]:
        error = form["error"]
        print(f"  {form['form']:26} {form['seconds']:9.4f} {form['fraction_of_peak']:8.1%} {error['max']:9.1e} "
              f"{error['mean']:9.1e}")
    for ratio in result["ratios"]:
        print(f"  {ratio['ours']:16} is {ratio['median']:6.2f} × as fast as {ratio['reference']:23} "
              f"({ratio['min']:.2f} to {ratio['max']:.2f})", flush=True)


def machine(arguments: argparse.Namespace) -> dict:
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")] \
        if info.exists() else []
    return {
        "cpu": names[0] if names else platform.processor(), "cores": os.cpu_count(), "threads": arguments.threads,
        "device": torch.cuda.get_device_name() if arguments.device == "cuda" else "cpu", "torch": torch.__version__,
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="cargo bench --bench compare --", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    split = lambda text: text.split(",")  # noqa: E731
    parser.add_argument("--ours", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--cases", type=split, help=f"with commas between them; there are\n{', '.join(CASES)}")
    parser.add_argument("--references", type=split, help="forms of the reference to time, such as fp32,bf16_sdpa; default: all\n(bf16_sdpa on CUDA only)")
    parser.add_argument("--precisions", type=split, default=["auto", "fp32"], help="of ours; default: auto,fp32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of each side; default: all")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--json", type=Path, help="file for the results")
    arguments = parser.parse_args()
    if arguments.cases is None:
        arguments.cases = [case for case in CASES if case not in CUDA_ONLY or arguments.device == "cuda"]
    if unknown := set(arguments.cases) - CASES.keys():
        parser.error(f"no case {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    return arguments


def main() -> None:
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    report = {"machine": machine(arguments), "rounds": arguments.rounds, "cases": []}
    print(", ".join(f"{key} {value}" for key, value in report["machine"].items()))
    for name in arguments.cases:
        report["cases"].append(compare(name, arguments))
        show(report["cases"][-1])
        if arguments.json:
            arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
