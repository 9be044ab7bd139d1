"""Runs a dataflow for the benchmarks beside this file: plain Python of the set-up environment, Linux only.

What a run takes and uses is read from outside, as a user sees it: wall time, summary.json, and the memory of every
process from /proc while it runs.
"""

import json
import os
import platform
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
DORA = PROJECT / ".spsam/bin/dora"
WEIGHTS = PROJECT / ".spsam/weights/lite_medsam.pth"
WEIGHTS_SHA256 = "79d8c9dca6db4d69d3f905579e5250af05e859fff9c1f543e89a513c3028ce76"
NODES = ["volume-loader", "image-encoder", "prompt-generator", "prompt-extractor", "mask-decoder", "metrics-writer"]


@dataclass
class Peak:
    """Peak memory of a process, bytes."""

    rss: int = 0  # resident, shared memory and libraries counted in full
    anonymous: int = 0  # resident and not shared
    pss: int = 0  # resident, shared pages divided among their processes


@dataclass
class Run:
    """Time and memory of one run of a dataflow."""

    wall_s: float
    summary: dict
    log: str
    peaks: dict[str, Peak] = field(default_factory=dict)
    """By node; `dora` is the daemon."""
    peak_sum_pss: int = 0
    """Largest sum over all processes at one moment, bytes."""
    peak_shm: int = 0
    """Peak use of /dev/shm minus the use before the run, bytes."""


def run(output: Path, settings: dict[str, str], dataflow: str = "oracle.yml", sample_s: float = 0.0) -> Run:
    """Runs `dora run` with the settings (`SPSAM_...`); samples memory every `sample_s` seconds unless that is 0."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DORA_")}
    environment |= {"SPSAM_OUTPUT": str(output)} | settings
    flow = without_builds(dataflow, output.parent)
    log = output.with_suffix(".log")
    shm_before = shm_used()
    with log.open("w") as sink:
        started = time.monotonic()
        process = subprocess.Popen(
            [DORA, "run", flow],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
        )
        result = Run(0.0, {}, "")
        try:
            while process.poll() is None:
                if sample_s:
                    sample(process.pid, result)
                    result.peak_shm = max(result.peak_shm, shm_used() - shm_before)
                time.sleep(sample_s or 0.05)
        except BaseException:
            process.terminate()  # dora stops its nodes
            process.wait()
            raise
        result.wall_s = time.monotonic() - started
    result.log = log.read_text()
    if process.returncode != 0:
        raise SystemExit(f"dora run failed ({process.returncode}); its log:\n{result.log.split('Stack backtrace')[0][-3000:]}")
    result.summary = json.loads((output / "summary.json").read_text())
    return result


def without_builds(dataflow: str, folder: Path) -> Path:
    """A copy of the dataflow without build commands, because dora would call cargo for each program."""
    missing = [name for name in NODES if not (PROJECT / "target/release" / f"spsam-{name}").exists()]
    if missing:
        raise SystemExit(f"{', '.join(missing)}: not built; run `cargo build --release --workspace`")
    place = folder / "dataflows"
    shutil.copytree(PROJECT / "dataflows/types", place / "types", dirs_exist_ok=True)
    lines = (PROJECT / "dataflows" / dataflow).read_text().splitlines()
    kept = [line for line in lines if not line.lstrip().startswith("build:")]
    (place / dataflow).write_text("\n".join(kept).replace("../target/", f"{PROJECT}/target/") + "\n")
    return place / dataflow


def sample(root: int, result: Run) -> None:
    """Adds the present memory use of the process `root` and its descendants."""
    total = 0
    for pid in [root, *descendants(root)]:
        try:
            name = Path(os.readlink(f"/proc/{pid}/exe")).name
            status = fields(f"/proc/{pid}/status")
            rollup = fields(f"/proc/{pid}/smaps_rollup")
        except (OSError, ValueError):
            continue  # it has ended
        total += rollup.get("Pss", 0)
        name = name.removeprefix("spsam-") if name.startswith("spsam-") else "dora"
        peak = result.peaks.setdefault(name, Peak())
        peak.rss = max(peak.rss, status.get("VmHWM", 0))
        peak.anonymous = max(peak.anonymous, status.get("RssAnon", 0))
        peak.pss = max(peak.pss, rollup.get("Pss", 0))
    result.peak_sum_pss = max(result.peak_sum_pss, total)


def descendants(root: int) -> list[int]:
    """All descendants of `root`."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (OSError, IndexError):
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found, open_ = [], [root]
    while open_:
        below = children.get(open_.pop(), [])
        found += below
        open_ += below
    return found


def fields(path: str) -> dict[str, int]:
    """Lines `Name: 12 kB` of a file in /proc, bytes."""
    found = {}
    for line in Path(path).read_text().splitlines():
        parts = line.split()
        if len(parts) == 3 and parts[2] == "kB":
            found[parts[0].rstrip(":")] = int(parts[1]) * 1024
    return found


def shm_used() -> int:
    """Bytes in use in /dev/shm."""
    shm = os.statvfs("/dev/shm")
    return (shm.f_blocks - shm.f_bfree) * shm.f_frsize


def machine() -> dict:
    """Describes the machine."""
    model = next(
        (line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    memory = fields("/proc/meminfo").get("MemTotal", 0)
    settings = {name: value for name, value in sorted(os.environ.items()) if name.startswith("SPSAM_")}
    return {"cpu": model, "cores": os.cpu_count(), "memory_gb": round(memory / 1e9, 1), "settings": settings}


def table(header: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
