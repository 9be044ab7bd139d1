"""A node in place of loader and writer: takes the images of a live series, and sends the masks of all of them at once.

The class of every pixel of image k is k modulo 4.
"""

import json
import uuid

import numpy as np
import pyarrow as pa
from dora import Node

node, loader_id = Node(), str(uuid.uuid4())
seen, count = {}, None


def say(ack):
    node.send_output("frame_ack", pa.array([json.dumps({"loader_id": loader_id, "ack": ack})]))


say("hello")
for event in node:
    if event["type"] != "INPUT":
        continue
    if event["id"] == "frames":
        metadata = event["metadata"]
        seen[metadata["index"]] = metadata
        key = {"series_id": metadata["series_id"], "revision": metadata["revision"]}
        say({"images": {**key, "indices": [metadata["index"]]}})
    elif event["id"] == "series":
        ((kind, message),) = json.loads(event["value"][0].as_py()).items()
        count = message["images"] if kind == "closed" else count
    if count is not None and len(seen) == count:
        for index, metadata in seen.items():
            common = {name: metadata[name] for name in ("shape", "series_id", "revision", "index", "received_ns")}
            mask = {**common, "provisional": False, "classes": 4, "sent_ns": metadata["received_ns"], "primitive": "masks"}
            rows, columns = metadata["shape"]
            node.send_output("masks", pa.array(np.full(rows * columns, index % 4, np.uint8)), mask)
        say({"done": {**key, "error": None}})
        print(f"sent the masks of {count} images at once", flush=True)
        count = None  # it stays until it is stopped: what a node has sent last may be lost with it
