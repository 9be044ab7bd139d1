"""Runs the field cases (files and situations that users of other tools reported) against `spsam`, one line a case.

    python tests/field/run.py CASES [--spsam target/release/spsam] [--output DIR] [NAME ...]

CASES is the folder with a folder for each case; its README names the right behaviour, which `files.py`, `figures.py`,
`machine.py` and `training.py` check. NAME chooses cases by the beginning of their names. Needs numpy and nibabel.
"""

import argparse
import sys
import tempfile
import time
import traceback
from pathlib import Path

import figures
import files
import machine
import training
from trial import Trial

PROJECT = Path(__file__).resolve().parents[2]
CHECKS = {**files.CHECKS, **figures.CHECKS, **machine.CHECKS, **training.CHECKS}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--spsam", type=Path, default=PROJECT / "target/release/spsam")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    output = options.output or Path(tempfile.mkdtemp(prefix="spsam-field-"))
    counts = {"PASS": 0, "FAIL": 0, "SKIP": 0}
    for folder in sorted(folder for folder in options.cases.iterdir() if folder.is_dir()):
        number = folder.name.split("-")[0]
        if options.names and not any(folder.name.startswith(name) for name in options.names):
            continue
        if number not in CHECKS:
            print(f"SKIP {folder.name}: no check is written for it", flush=True)
            counts["SKIP"] += 1
            continue
        trial = Trial(options.spsam.resolve(), folder, output.resolve() / folder.name, PROJECT)
        started = time.monotonic()
        try:
            CHECKS[number](trial)
        except Exception:  # a check that dies is a failed one
            trial.wrong.append(traceback.format_exc(limit=-1).strip().replace("\n", " | "))
        verdict = trial.verdict()
        counts[verdict] += 1
        said = "; ".join(trial.wrong + [f"({text})" for text in trial.seen])
        print(f"{verdict} {folder.name} ({time.monotonic() - started:.0f} s): {said}", flush=True)
    print(f"field cases: {counts['PASS']} passed, {counts['FAIL']} failed, {counts['SKIP']} skipped; outputs in {output}")
    return 1 if counts["FAIL"] else 0


if __name__ == "__main__":
    sys.exit(main())
