"""Times the reference implementations in PyTorch and ours in turn, on the same inputs and weights.

    cargo bench --bench compare -- [--cases vit_b-1024,...] [--rounds 5] [--threads N] [--device cpu] [--json FILE]

Every form of a case has a process of its own, of which one computes while the others wait: what one form leaves behind
in an allocator or a cache does not become another's. In every round each form runs for a second or once, in alternating
order; the median of these runs counts, and a ratio is that of two such times of the same round. A form's error is the
largest and the mean difference of its outputs from those of `reference fp32`, as fractions of the largest value of the
latter; of several outputs (gradients) that with the largest counts.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import torch

from child import Child, ours, reference
from reference import CASES

# These take minutes per round and 10 GB on a CPU.
CUDA_ONLY = {"vit_h-1024"}
# On a GPU this form is better than the shipped code; on a CPU the form entirely in bf16 is.
CUDA_FORMS = {"bf16_sdpa"}
SIDE = 2048
# Duration of a form's runs in a round.
SECONDS = 1.0
# Pause before a form's runs: OpenMP threads of the previous process keep spinning for some milliseconds.
PAUSE = 0.05


def matrix_peak(device: str) -> dict[str, float]:
    """FLOP/s of a matrix product of SIDE³, best of ten."""
    peaks = {}
    for name, kind in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        a, b = (torch.randn(SIDE, SIDE, device=device).to(kind) for _ in range(2))
        seconds = []
        for _ in range(10):
            start = time.perf_counter()
            a @ b
            if device == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
        peaks[name] = 2 * SIDE**3 / min(seconds)
    return peaks


def block(child: Child) -> float:
    """Median time of a run, seconds, over the runs that fit into `SECONDS`; at least one."""
    time.sleep(PAUSE)
    seconds, end = [], time.monotonic() + SECONDS
    while not seconds or time.monotonic() < end:
        seconds.append(child.run())
    return statistics.median(seconds)


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


def compare(name: str, arguments: argparse.Namespace) -> dict:
    """Runs all rounds of one case."""
    threads, device = arguments.threads, arguments.device
    peak = matrix_peak(device)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        folder = Path(folder)

        def refer(form: str) -> tuple[Child, dict]:
            child = stack.enter_context(reference(name, form, folder / form, threads, device))
            return child, child.ask(op="load")

        # fp32 is always needed, for the expected outputs and the number of operations.
        fp32, loaded = refer("fp32")
        operations = fp32.ask(op="count")["operations"]
        fp32.run()
        truth = fp32.output(folder)
        children, errors_of, peaks = {}, {}, {}

        def add(label: str, child: Child, kind: str) -> None:
            """Adds a form to be timed, after two warm-up runs."""
            child.run(), child.run()
            children[label], peaks[label] = child, peak.get(kind, peak["bf16"])
            errors_of[label] = errors(child.output(folder), truth)

        forms = set(arguments.references or set(loaded["forms"]) - (CUDA_FORMS if device == "cpu" else set()))
        if unknown := forms - set(loaded["forms"]):
            raise SystemExit(f"{name} has no form {', '.join(sorted(unknown))}; it has {', '.join(loaded['forms'])}")
        for form in loaded["forms"]:
            if form in forms:
                add(f"reference {form}", fp32 if form == "fp32" else refer(form)[0], form.split("_")[0])
        for precision in arguments.precisions:
            child = stack.enter_context(ours(arguments.ours, threads, device))
            kind = child.ask(op="load", precision=precision, **loaded["request"])["precision"]
            if f"ours {kind}" not in children:
                add(f"ours {kind}", child, kind)
        seconds = {label: [] for label in children}
        for number in range(arguments.rounds):
            for label in list(children) if number % 2 == 0 else reversed(children):
                seconds[label].append(block(children[label]))
    median = {label: statistics.median(times) for label, times in seconds.items()}
    return {
        "case": name,
        "gflop": operations / 1e9,
        "peak_gflop_per_second": {kind: rate / 1e9 for kind, rate in peak.items()},
        "forms": [
            {
                "form": label, "seconds": median[label], "all_seconds": seconds[label],
                "fraction_of_peak": operations / median[label] / peaks[label], "error": errors_of[label],
            }
            for label in children
        ],
        "ratios": [
            {"ours": mine, "reference": theirs} | spread(seconds[theirs], seconds[mine])
            for mine in children if mine.startswith("ours") for theirs in children if theirs.startswith("reference")
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
