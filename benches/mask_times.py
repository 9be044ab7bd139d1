"""A node for benches/stream.py: a line of JSON in MASK_TIMES for each mask, with its metadata, its times in ns, and its pixels."""

import base64
import json
import os
import zlib

from dora import Node

KEYS = ["series_id", "revision", "index", "provisional", "received_ns", "sent_ns"]

with open(os.environ["MASK_TIMES"], "a") as file:
    for event in Node():
        if event["type"] == "INPUT":
            metadata = event["metadata"]
            line = {key: metadata[key] for key in KEYS}
            pixels = event["value"].to_numpy(zero_copy_only=False).tobytes()
            line["mask"] = base64.b64encode(zlib.compress(pixels, 1)).decode()
            file.write(json.dumps(line) + "\n")
            file.flush()
