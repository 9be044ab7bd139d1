"""Live segmentation with and without pages that watch: the rate of the dataflow, and how long masks take to a page.

    .spsam/venv/bin/python benches/live_view.py [ROUNDS [VOLUME]]

Plays a volume, by default the sample (region of the left hippocampus) into `dataflows/stream.yml` with the source of `examples/live-python`,
in turns without `live-view` and with it, ten pages and one that reads nothing. A rate is images per second from the first image to
its final mask; the shares are medians over the rounds. Pages are one process of Python that reads and counts.
"""

import base64
import json
import os
import selectors
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from dataflow import DORA, PROJECT

PAGES = 10
ADDRESS = ("127.0.0.1", 8799)
SETTINGS = {
    "SPSAM_MODEL": str(PROJECT / "models/hippocampus"),
    "SPSAM_ROI": "-44,-46,-32,-9,6,6",
    "FRAMES_OF": str(PROJECT / ".spsam/sample/mni152_t1.nii.gz"),
    "FRAMES_PER_SECOND": "100",
    "SPSAM_VIEW": "{}:{}".format(*ADDRESS),
}


def flow(folder: Path, with_view: bool) -> Path:
    """`dataflows/stream.yml` with the source of the example, without builds."""
    example = PROJECT / "examples/live-python"
    text = (example / "dataflow.yml").read_text().replace("frames_node.py", str(example / "frames_node.py"))
    if with_view:
        stream = (PROJECT / "dataflows/stream.yml").read_text()
        text += "\n" + stream[stream.index("  - id: live-view") :]
    text = text.replace("../../target/", f"{PROJECT}/target/").replace("../target/", f"{PROJECT}/target/")
    path = folder / f"{'with' if with_view else 'without'}.yml"
    path.write_text("\n".join(line for line in text.splitlines() if not line.lstrip().startswith("build:")))
    return path


class Page:
    """A connection to the node that takes slices; how long they took from the writer, seconds."""

    def __init__(self):
        self.socket = socket.create_connection(ADDRESS)
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            "GET /ws HTTP/1.1\r\nHost: {}:{}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: {}\r\n\r\n".format(*ADDRESS, key).encode())
        self.received, self.times, self.is_open = b"", [], True

    def read(self):
        data = self.socket.recv(1 << 20)
        self.is_open = bool(data)
        self.received += data
        if not self.times and b"\r\n\r\n" in self.received and self.received.startswith(b"HTTP"):
            self.received = self.received.split(b"\r\n\r\n", 1)[1]
        while (message := self.next_message()) is not None:
            kind, payload = message
            if kind == 2:
                header = json.loads(payload[4 : 4 + int.from_bytes(payload[:4], "little")])
                if header["sent_ns"]:
                    self.times.append((time.time_ns() - header["sent_ns"]) * 1e-9)

    def next_message(self):
        """Kind and payload of the next frame (RFC 6455, 5.2); frames of a server are not masked."""
        data = self.received
        if len(data) < 2 or data.startswith(b"HTTP"):
            return None
        length, start = data[1], 2
        if length >= 126:
            start = 4 if length == 126 else 10
            length = int.from_bytes(data[2:start], "big")
        if len(data) < max(start, start + length):
            return None
        self.received = data[start + length :]
        return data[0] & 15, data[start : start + length]


def watch(process) -> tuple[list[float], dict]:
    """Ten pages that read, one that does not, until the run ends: the times of all masks, and what the node says."""
    while True:
        assert process.poll() is None, "the run has ended before there was a page"
        try:
            pages = [Page() for _ in range(PAGES)]
            break
        except ConnectionRefusedError:
            time.sleep(0.1)
    stalled = Page()
    selector = selectors.DefaultSelector()
    for page in pages:
        selector.register(page.socket, selectors.EVENT_READ, page)
    latency, asked = {}, 0.0
    while selector.get_map():
        for key, _ in selector.select(0.5):
            key.data.read()
            if not key.data.is_open:
                selector.unregister(key.fileobj)
        if time.monotonic() - asked > 2:
            asked = time.monotonic()
            try:
                latency = json.load(urllib.request.urlopen("http://{}:{}/latency".format(*ADDRESS), timeout=1))
            except OSError:
                pass  # the run is ending
    stalled.socket.close()
    return [seconds for page in pages for seconds in page.times], latency


def run(folder: Path, with_view: bool):
    """Images per second, and of a run with pages what they saw."""
    output = folder / "output"
    shutil.rmtree(output, ignore_errors=True)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | SETTINGS | {"SPSAM_OUTPUT": str(output), "PATH": path}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([DORA, "run", flow(folder, with_view)], env=environment, stdout=log, stderr=log)
        try:
            seen = watch(process) if with_view else None
            assert process.wait() == 0, (folder / "log").read_text()[-3000:]
        finally:
            process.terminate()
    complete = json.loads((output / "summary.json").read_text())["live"]["complete"]
    return complete["images"] / complete["max"], seen


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    if len(sys.argv) > 2:
        SETTINGS["FRAMES_OF"] = str(Path(sys.argv[2]).resolve())
    shares = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(PROJECT / "dataflows/types", folder / "types")
        for place in range(rounds):
            without, _ = run(folder, False)
            with_view, (times, latency) = run(folder, True)
            shares.append(with_view / without)
            print(f"round {place + 1}: {without:.2f} images/s without, {with_view:.2f} with {PAGES} pages and a stalled one: "
                  f"{shares[-1]:.3f}")
            print(f"  writer to page: {len(times)} masks, median {1e3 * percentile(times, 0.5):.1f} ms, "
                  f"95 % {1e3 * percentile(times, 0.95):.1f} ms; of it in the node {latency.get('page_secs')}")
    print(f"rate with pages / without: median {statistics.median(shares):.3f} of {rounds}, {min(shares):.3f} to {max(shares):.3f}")


if __name__ == "__main__":
    main()
