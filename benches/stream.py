"""Runs dataflows/stream.yml for the benchmarks beside this file, and plays the scanner."""

import base64
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import yaml

from dataflow import DORA, PROJECT, without_builds

SAMPLE = PROJECT / ".spsam/sample/mni152_t1.nii.gz"
LEFT_HIPPOCAMPUS = "-44,-46,-32,-9,6,6"
SPSAM = PROJECT / "target/release/spsam"
NAME = "spsam-stream"  # of the dataflow at the coordinator
START_SECS = 300  # until the receiver listens
COLLECTOR = """
  - id: mask-times
    path: {node}
    inputs:
      masks: {{ source: metrics-writer/masks, queue_size: 8192, queue_policy: drop_oldest }}
    input_types:
      masks: spsam/v1/Mask
    finish_grace_secs: 86400
"""


class Stream:
    """The dataflow while it runs, with a node that collects its masks; results go to `folder`/live.

    With `coordinator`, it is run by `dora up` and `dora start`, so that `dora node` can change it.
    """

    def __init__(self, folder: Path, settings: dict[str, str], coordinator: bool = False):
        folder.mkdir(parents=True)
        self.folder, self.output, self.times = folder, folder / "live", folder / "times.jsonl"
        self.log_file = folder / "live.log"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self.flow = without_builds("stream.yml", folder)
        with self.flow.open("a") as file:
            file.write(COLLECTOR.format(node=PROJECT / "benches/mask_times.py"))
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("DORA_")}
        self.environment |= {
            "SPSAM_OUTPUT": str(self.output),
            "SPSAM_LISTEN": self.address,
            "SPSAM_VIEW": "off",
            "MASK_TIMES": str(self.times),
            # nodes in Python need its packages
            "PATH": f"{Path(sys.executable).parent}:{self.environment['PATH']}",
        } | settings
        self.coordinator = coordinator
        if coordinator:
            self.dora("up")
        command = ["start", self.flow, "--name", NAME, "--attach"] if coordinator else ["run", self.flow]
        with self.log_file.open("w") as sink:
            self.process = subprocess.Popen(
                [DORA, *command], env=self.environment, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink
            )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()  # dora stops its nodes
        self.process.wait()
        if self.coordinator:
            self.dora("down")

    def dora(self, *arguments) -> None:
        """A command of dora that must succeed."""
        done = subprocess.run([DORA, *arguments], env=self.environment, cwd=self.folder, capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"dora {' '.join(map(str, arguments))}: {done.stderr[-1000:]}")

    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def wait_until_ready(self) -> None:
        """Waits until all nodes have loaded their weights. The receiver listens earlier, which no scanner would wait for."""
        self.wait_for("the receiver", lambda: re.search("listens on", self.log()))
        time.sleep(3)

    def wait_for(self, what: str, is_there, seconds: float = START_SECS) -> None:
        until = time.monotonic() + seconds
        while not is_there():
            if self.process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"{what} did not come; the log of the run:\n{self.log()[-3000:]}")
            time.sleep(0.05)

    def send(self, *arguments, **options) -> subprocess.Popen:
        """`spsam send` to the receiver."""
        command = [SPSAM, "send", *arguments, "--to", self.address, "--wait", START_SECS]
        return subprocess.Popen([str(part) for part in command], stdout=sys.stderr, **options)

    def finish(self, seconds: float = 3600) -> int:
        """Waits for the end of a run with `SPSAM_SERIES`; its exit status."""
        return self.process.wait(seconds)

    def nodes(self) -> dict[str, int]:
        """Process ids by node."""
        found = {}
        output = f"SPSAM_OUTPUT={self.output}".encode()
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                name = Path(os.readlink(entry / "exe")).name
                if name.startswith("spsam-") and output in (entry / "environ").read_bytes():
                    found[name.removeprefix("spsam-")] = int(entry.name)
        return found

    def kill(self, node: str) -> None:
        os.kill(self.nodes()[node], signal.SIGKILL)

    def replace(self, node: str) -> None:
        """`dora node replace` by another process of the same program."""
        definitions = yaml.safe_load(self.flow.read_text())["nodes"]
        file = self.folder / f"{node}.yml"
        file.write_text(yaml.safe_dump(next(one for one in definitions if one["id"] == node)))
        self.dora("node", "replace", "--dataflow", NAME, node, "--from-yaml", file)

    def masks(self) -> list[dict]:
        """All masks that have come so far."""
        if not self.times.exists():
            return []
        lines = self.times.read_text().split("\n")[:-1]  # the last one may be incomplete
        return [json.loads(line) for line in lines]

    def live(self) -> dict:
        """`live` of summary.json."""
        return json.loads((self.output / "summary.json").read_text())["live"]


def pixels(mask: dict) -> np.ndarray:
    """The classes of a mask that was collected."""
    return np.frombuffer(zlib.decompress(base64.b64decode(mask["mask"])), np.uint8)
