#!/usr/bin/env python3
"""Training across the dataflow against training in one process: benches/training.py --help.

    .spsam/venv/bin/python benches/training.py --config configs/hippocampus.yml --data .../Task04_Hippocampus

Both make the same steps, turn by turn. Of each turn the median time of a step is taken, after the first ones; the ratio of
a round is that of its two turns. Beside it are the share of the time that the network waited for windows, and the memory
of every process (resident, the shared pages included) at half of the time and at the end.

A table goes to stderr, JSON goes to stdout.
"""

import argparse
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml
from dataflow import machine

PROJECT = Path(__file__).resolve().parent.parent
SAMPLE_S = 0.5


def main() -> None:
    options = parse()
    rounds = []
    with tempfile.TemporaryDirectory(prefix="spsam-training-") as folder:
        for number in range(options.rounds):
            order = ["in_process", "dataflow"] if number % 2 == 0 else ["dataflow", "in_process"]
            turns = {}
            for place in order:
                turns[place] = turn(options, Path(folder) / f"{place}-{number}", place)
                print(f"round {number + 1}, {place}: {turns[place]['step_s']:.3f} s a step", file=sys.stderr)
            turns["ratio"] = turns["dataflow"]["step_s"] / turns["in_process"]["step_s"]
            rounds.append(turns)
    ratios = [one["ratio"] for one in rounds]
    print(f"\ndataflow / one process: {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})", file=sys.stderr)
    for one in rounds:
        flow = one["dataflow"]
        print(f"waiting for windows {100 * flow['waiting']:.1f}%; memory, MB, at half of the time and at the end:", file=sys.stderr)
        for name, (early, late) in flow["memory_mb"].items():
            print(f"  {name:<20} {early:6.0f} {late:6.0f}", file=sys.stderr)
    json.dump({"machine": machine(), "steps": options.steps, "rounds": rounds}, sys.stdout, indent=2)
    print()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="configuration of a training run")
    parser.add_argument("--data", type=Path, help="dataset folder, instead of the configuration's")
    parser.add_argument("--steps", type=int, default=30, help="steps per run (default 30)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each (default 3)")
    parser.add_argument("--windows", type=int, help="windows per step, instead of the configuration's")
    parser.add_argument("--stage", type=int, choices=[1, 2], default=2, help="1: the generator only (default 2)")
    return parser.parse_args()


def turn(options: argparse.Namespace, output: Path, place: str) -> dict:
    output.parent.mkdir(exist_ok=True)
    config = yaml.safe_load(options.config.read_text())
    schedule = config["schedule"]
    schedule.update(epochs=1000, iterations_per_epoch=options.steps, validate_every_epochs=0, log_every_steps=1)
    schedule["generator_only_epochs"] = 1000 if options.stage == 1 else 0
    if options.windows:
        schedule["windows_per_step"] = options.windows
    if "weights" in config["model"]:
        weights = config["model"]["weights"]
        weights["file"] = str((options.config.parent / weights["file"]).resolve())
    file = output.with_suffix(".yml")
    file.write_text(yaml.safe_dump(config))
    command = [PROJECT / "target/release/spsam", "train", "--config", file, "--output", output]
    command += ["--data", options.data.resolve()] if options.data else []
    command += ["--in-process"] if place == "in_process" else []
    log = output.with_suffix(".log").open("w")
    process = subprocess.Popen(command, stdout=log, stderr=log)
    done = output / "checkpoints" / f"step-{options.steps:08d}" / "manifest.json"
    memory: list[tuple[float, dict[str, float]]] = []
    while not done.exists() and process.poll() is None:
        memory.append((time.monotonic(), processes(output, process.pid)))
        time.sleep(SAMPLE_S)
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    if process.wait() != 0 or not done.exists() and not any(output.glob("checkpoints/*/manifest.json")):
        sys.exit(f"the training failed:\n{Path(log.name).read_text()[-3000:]}")
    points = json.loads((output / "history.json").read_text())["points"]
    points = [point for point in points if point["step"] <= options.steps]
    used = points[max(3, len(points) // 10) :]
    slices = config["model"]["patch"]["depth"] * schedule["windows_per_step"]
    early, late = memory[len(memory) // 2][1], memory[-1][1]
    return {
        "step_s": statistics.median(slices / point["slices_per_second"] for point in used),
        "waiting": statistics.mean(point["waiting"] for point in used),
        "memory_mb": {name: (early.get(name, float("nan")), late[name]) for name in sorted(late)},
    }


def processes(output: Path, own: int) -> dict[str, float]:
    """Resident memory in MB of the run's processes, by name."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name = Path((folder / "exe").readlink()).name
            is_node = name.startswith("spsam-") and str(output).encode() in (folder / "environ").read_bytes()
            if is_node or int(folder.name) == own:
                pages = int((folder / "statm").read_text().split()[1])
                found[name] = pages * 4096 / 1e6
        except OSError:
            continue  # it has ended, or is somebody else's
    return found


if __name__ == "__main__":
    main()
