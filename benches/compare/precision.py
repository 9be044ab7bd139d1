"""Effect of bf16 on Dice: oracle runs over the ACDC validation patients in fp32 and in bf16.

    .spsam/venv/bin/python benches/compare/precision.py --data DATA/ACDC [--output output/precision]

Prompts come from the labels, the network is plain LiteMedSAM, through dataflows/oracle.yml. Validation patients are
those whose number ends in 3, with both frames. Exit code 1: the means of Dice differ by --limit or more.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
PRECISIONS = ["fp32", "bf16"]


def patients(data: Path, most: int | None) -> list[Path]:
    found = sorted(path for path in data.glob("patient*3") if path.is_dir())[:most]
    if not found:
        raise SystemExit(f"{data}: no folder patient…3")
    return found


def infer(arguments: argparse.Namespace, precision: str) -> dict:
    """Segments the patients and returns summary.json."""
    output = (arguments.output / precision).resolve()
    output.mkdir(parents=True, exist_ok=True)
    cases = output.with_suffix(".txt")
    cases.write_text("".join(f"{folder}\n" for folder in patients(arguments.data.resolve(), arguments.patients)))
    subprocess.run(
        [arguments.spsam, "infer", "--prompts", "labels", "--input", cases, "--labels", arguments.data,
         "--precision", precision, "--device", arguments.device, "--threads", str(arguments.threads),
         "--output", output],
        check=True)
    summary = json.loads((output / "summary.json").read_text())
    if summary["failed"]:
        raise SystemExit(f"{precision}: failed cases: {summary['failed']}")
    return summary


def compare(summaries: dict[str, dict]) -> dict:
    first, second = (summaries[precision] for precision in PRECISIONS)
    dice = {"mean": {precision: summaries[precision]["dice_mean"] for precision in PRECISIONS}}
    for name in first["classes"]:
        dice[name] = {precision: summaries[precision]["classes"][name]["dice"] for precision in PRECISIONS}
    for values in dice.values():
        values["difference"] = values[PRECISIONS[1]] - values[PRECISIONS[0]]
    assert first["cases"] == second["cases"]
    return {
        "cases": first["cases"], "dice": dice,
        "slices_per_second": {
            precision: summaries[precision]["timings"]["slices_per_second"] for precision in PRECISIONS},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of ACDC, with patient003 and so on")
    parser.add_argument("--output", type=Path, default=Path("output/precision"))
    parser.add_argument("--spsam", type=Path, default=PROJECT / "target/release/spsam")
    parser.add_argument("--patients", type=int, help="use only this many patients")
    parser.add_argument("--threads", type=int, default=0, help="threads of each node")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--limit", type=float, default=0.002)
    parser.add_argument("--reuse", action="store_true", help="use existing summaries")
    arguments = parser.parse_args()
    summaries = {}
    for precision in PRECISIONS:
        done = arguments.output / precision / "summary.json"
        summaries[precision] = (
            json.loads(done.read_text()) if arguments.reuse and done.exists() else infer(arguments, precision))
    result = compare(summaries)
    (arguments.output / "precision.json").write_text(json.dumps(result, indent=1) + "\n")
    print(f"{result['cases']} cases; Dice")
    for name, values in result["dice"].items():
        print(f"  {name:12} " + ", ".join(f"{key} {value:+.4f}" if key == "difference" else f"{key} {value:.4f}"
                                          for key, value in values.items()))
    return 0 if abs(result["dice"]["mean"]["difference"]) < arguments.limit else 1


if __name__ == "__main__":
    sys.exit(main())
