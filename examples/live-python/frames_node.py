"""Plays a NIfTI volume as a scanner that sends one image after the other: a template for a source of your own."""

import hashlib
import json
import os
import time

import nibabel
import numpy as np
import pyarrow as pa
from dora import Node

LPS = np.diag([-1.0, -1.0, 1.0])  # NIfTI's directions (right, front, top) to DICOM's (left, back, top)
SEND_AGAIN_AFTER = 5.0  # seconds without an acknowledgement


def frames_of(path):
    """Metadata and pixels of each image of a volume, in the order in which its slices are stored."""
    image = nibabel.load(path)
    volume = np.asarray(image.dataobj, np.float32)
    to_lps, spacing = LPS @ image.affine[:3], np.linalg.norm(image.affine[:3, :3], axis=0)
    directions = to_lps[:, :3] / spacing
    last_row = volume.shape[1] - 1  # volumes hold the rows of an image from the last to the first
    for z in range(volume.shape[2]):
        metadata = {
            "shape": [volume.shape[1], volume.shape[0]],
            "position": (to_lps @ [0, last_row, z, 1]).tolist(),
            "orientation": [*directions[:, 0].tolist(), *(-directions[:, 1]).tolist()],
            "pixel_spacing": [float(spacing[1]), float(spacing[0])],
            "thickness": [float(spacing[2])],
            "image_type": "ORIGINAL",
        }
        yield metadata, volume[:, ::-1, z].T.ravel()


class Source:
    """Sends the images of a series, and again what the loader has not acknowledged."""

    def __init__(self, node, path, order):
        self.node = node
        name = os.path.basename(path).split(".")[0]
        self.series = {"series_id": hashlib.sha256(path.encode()).hexdigest()[:16], "revision": 0}
        self.open = {"open": {**self.series, "name": name, "expected": None}}
        images = list(frames_of(path))
        self.images = [images[place] for place in order(len(images))]
        self.sent, self.waiting, self.done = 0, {}, False

    def send(self, index):
        metadata, pixels = self.images[index]
        metadata.setdefault("received_ns", time.time_ns())
        self.waiting[index] = time.monotonic()
        self.node.send_output("frames", pa.array(pixels), {**metadata, **self.series, "index": index})

    def send_state(self, message):
        self.node.send_output("series", pa.array([json.dumps(message)]))

    def send_next(self):
        if self.sent == 0:
            self.send_state(self.open)
        if self.sent < len(self.images):
            self.send(self.sent)
            self.sent += 1
            if self.sent == len(self.images):
                self.close()

    def close(self):
        self.send_state({"closed": {**self.series, "images": len(self.images)}})

    def send_again(self):
        late = time.monotonic() - SEND_AGAIN_AFTER
        for index in [index for index, sent in self.waiting.items() if sent < late]:
            self.send(index)

    def on_ack(self, message):
        kind, ack = message if isinstance(message, tuple) else (message, {})
        if kind == "hello":  # the loader has started, and has nothing
            self.send_state(self.open)
            for index in range(self.sent):
                self.send(index)
            if self.sent == len(self.images):
                self.close()
        elif kind == "images":
            for index in ack["indices"]:
                self.waiting.pop(index, None)
        elif kind == "done":
            self.done = True


def order_of(text):
    """The order in which images are sent: stored, reversed, or one half after the other as interleaved scans."""
    return {
        "": range,
        "reversed": lambda count: range(count - 1, -1, -1),
        "interleaved": lambda count: [*range(0, count, 2), *range(1, count, 2)],
    }[text]


def main():
    node = Node()
    source = Source(node, os.environ["FRAMES_OF"], order_of(os.environ.get("FRAMES_ORDER", "")))
    pause = 1 / float(os.environ.get("FRAMES_PER_SECOND") or 5)
    next_image = time.monotonic() + 1
    while not source.done:
        event = node.next(timeout=max(0.001, min(pause, next_image - time.monotonic())))
        if event is None:
            return
        if event["type"] == "STOP":
            return
        if event["type"] == "INPUT":
            ack = json.loads(event["value"][0].as_py())["ack"]
            source.on_ack(ack if isinstance(ack, str) else next(iter(ack.items())))
        if time.monotonic() >= next_image:
            source.send_next()
            next_image += pause
        source.send_again()
    for event in node:  # the loader ends the dataflow
        if event["type"] == "STOP":
            return


if __name__ == "__main__":
    main()
