"""Field cases about the machine: little shared memory, and a command that is killed."""

import gzip
import os
import signal
import subprocess
import time
from pathlib import Path

from trial import NOISE, Trial

SIZES = ("64m", "8m", "1m", "4k", "read-only")


def small_shared_memory(t: Trial) -> None:
    """Each size in a mount namespace of its own; the machine's /dev/shm is not touched."""
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode != 0:
        t.missing.append("root, for a mount namespace")
        return
    for size in SIZES:
        options = "ro" if size == "read-only" else f"size={size}"
        output, log = t.output / size, t.output / f"{size}.log"
        script = f'mount -t tmpfs -o {options} tmpfs /dev/shm && exec "$@"'
        started = time.monotonic()
        with log.open("wb") as stream:
            code = subprocess.run(
                ["timeout", "180", "unshare", "-m", "bash", "-c", script, "bash", t.spsam, "infer", "--input",
                 "image.nii.gz", "--box", "blob=-21,-13,20,3,5,42", "--output", output],
                cwd=t.folder, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT).returncode
        seconds, text = time.monotonic() - started, log.read_text(errors="replace")
        written = (output / "image.nii.gz").exists()
        named = [line for line in text.splitlines() if "/dev/shm" in line or "shared memory" in line.lower()]
        t.need(code == 0 and written or (size != "64m" and code == 1 and named), f"{size}: exit {code}, not named")
        t.need(code == 0 or seconds < 15, f"{size}: failed after {seconds:.0f} s")
        t.need(not any(noise in text for noise in NOISE), f"{size}: noise besides the error")
        t.note(f"{size}: exit {code} after {seconds:.0f} s")


def marked(mark: str) -> list[int]:
    """Processes that carry the mark of a run in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"FIELDSCAN={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:
            pass
    return found


def killed(t: Trial) -> None:
    for name in ("TERM", "INT", "HUP", "KILL"):
        mark, output = f"{name}-{os.getpid()}", t.output / name
        with (t.output / f"{name}.log").open("wb") as stream:
            child = subprocess.Popen(
                [t.spsam, "infer", "--input", "images", "--box", "blob=-60,-60,-60,200,200,200", "--output", output],
                cwd=t.folder, env={**os.environ, "FIELDSCAN": mark}, stdin=subprocess.DEVNULL, stdout=stream,
                stderr=subprocess.STDOUT)
        deadline = time.monotonic() + 120
        while not list(output.glob("case_*.nii.gz")) and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        t.need(child.poll() is None, f"{name}: ended before it was killed, exit {child.poll()}")
        child.send_signal(signal.Signals[f"SIG{name}"])
        started = time.monotonic()
        try:
            code = child.wait(20)
        except subprocess.TimeoutExpired:
            code = None
        while marked(mark) and time.monotonic() - started < 20:
            time.sleep(0.1)
        seconds, left = time.monotonic() - started, marked(mark)
        t.need(not left, f"{name}: {len(left)} processes are left after 20 s")
        t.need(code not in (0, None), f"{name}: exit {code}")
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        child.wait()
        parts = [path.name for path in output.iterdir() if "part" in path.name or "spsam-" in path.name]
        t.need(not parts, f"{name}: left {parts}")
        for path in output.glob("*.nii.gz"):
            try:
                gzip.decompress(path.read_bytes())
            except (OSError, EOFError) as error:
                t.need(False, f"{name}: {path.name} is not whole: {error}")
        t.note(f"{name}: exit {code}, gone after {seconds:.1f} s")


CHECKS = {"22": small_shared_memory, "24": killed}
