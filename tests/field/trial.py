"""One field case: runs commands in its folder, keeps what was seen and what was wrong."""

import json
import os
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

# What no user should see.
NOISE = ("internal error", "panicked", "stack backtrace", "Location:", "BACKTRACE")


@dataclass
class Result:
    """What a command did; `exit` is None after a time-out."""

    exit: int | None
    text: str
    seconds: float
    peak_mb: float

    def lines(self, *words: str) -> list[str]:
        """Lines that have all these words, whatever their case."""
        return [line for line in self.text.splitlines() if all(word.lower() in line.lower() for word in words)]

    def says(self, *words: str) -> bool:
        return bool(self.lines(*words))


class Trial:
    def __init__(self, spsam: Path, folder: Path, output: Path, project: Path):
        self.spsam, self.folder, self.output, self.project = spsam, folder, output, project
        self.wrong: list[str] = []
        self.seen: list[str] = []
        self.missing: list[str] = []
        output.mkdir(parents=True, exist_ok=True)

    def run(self, *arguments, timeout: float = 300, environment: dict[str, str] | None = None) -> Result:
        """Runs `spsam` in the case's folder; its words go to a file beside the outputs, too."""
        log = self.output / f"run-{len(list(self.output.glob('run-*.log'))):02}.log"
        started = time.monotonic()
        with log.open("wb") as stream:
            child = subprocess.Popen([self.spsam, *map(str, arguments)], cwd=self.folder, stdin=subprocess.DEVNULL,
                                     stdout=stream, stderr=subprocess.STDOUT, env={**os.environ, **(environment or {})})
        status, usage = None, None
        while status is None and time.monotonic() - started < timeout:
            pid, code, usage = os.wait4(child.pid, os.WNOHANG)
            status = os.waitstatus_to_exitcode(code) if pid else None
            time.sleep(0.02)
        if status is None:
            child.kill()
            _, _, usage = os.wait4(child.pid, 0)
        child.returncode = status if status is not None else -9
        text = re.sub(r"\x1b\[[0-9;]*m", "", log.read_text(errors="replace")).replace("\r", "\n")
        return Result(status, text, time.monotonic() - started, usage.ru_maxrss / 1024)

    def infer(self, name: str, *arguments, **options) -> tuple[Result, Path]:
        """Runs `spsam infer` with its results in a folder of this name."""
        output = self.output / name
        return self.run("infer", *arguments, "--output", output, **options), output

    def need(self, holds: bool, what: str) -> bool:
        """Notes `what` as wrong unless it holds."""
        if not holds:
            self.wrong.append(what)
        return bool(holds)

    def note(self, text: str) -> None:
        self.seen.append(text)

    def refused(self, result: Result, name: str, *words: str, within: float | None = None) -> bool:
        """Exit 1 and one line with these words, without noise."""
        right = self.need(result.exit == 1, f"{name}: exit {result.exit}, expected 1")
        lines = result.lines(*words)
        right &= self.need(bool(lines), f"{name}: no line with {', '.join(words)}")
        errors = [line for line in lines if "error" in line.lower()]
        right &= self.need(len(errors) <= 1, f"{name}: said {len(errors)} times")
        right &= self.need(not any(result.says(noise) for noise in NOISE), f"{name}: noise besides the error")
        if within is not None:
            right &= self.need(result.seconds <= within, f"{name}: refused after {result.seconds:.1f} s")
        if lines:
            self.note(f"{name}: refused in {result.seconds:.1f} s: {lines[-1].strip()[:160]}")
        return right

    def has(self, *names: str) -> bool:
        """Whether these files of the case are here; real ones are not kept with it."""
        missing = [name for name in names if not (self.folder / name).exists()]
        self.missing += missing
        return not missing

    def verdict(self) -> str:
        if self.missing:
            self.note(f"not here: {', '.join(self.missing)}")
        return "FAIL" if self.wrong else "PASS" if self.seen else "SKIP"


def voxels(path: Path) -> np.ndarray:
    return np.asanyarray(nib.load(path).dataobj)


def dice(found: Path, truth: Path) -> dict[int, float]:
    """Dice in world space of every label of the truth."""
    found, truth = (np.round(np.asanyarray(nib.as_closest_canonical(nib.load(path)).dataobj)) for path in (found, truth))
    if found.shape != truth.shape:
        return {}
    labels = [int(label) for label in np.unique(truth) if label]
    return {label: 2 * ((found == label) & (truth == label)).sum() / max(1, (found == label).sum() + (truth == label).sum())
            for label in labels}


def same(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and np.array_equal(voxels(one), voxels(other))


def strict_json(path: Path):
    def refuse(constant: str):
        raise ValueError(f"{path}: {constant} is no JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


def anywhere(value, key: str) -> list:
    """Values of a key at any depth."""
    if isinstance(value, dict):
        here = [value[key]] if key in value else []
        return here + [found for inner in value.values() for found in anywhere(inner, key)]
    if isinstance(value, list):
        return [found for inner in value for found in anywhere(inner, key)]
    return []
