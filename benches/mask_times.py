"""A node for benches/latency.py: a line of JSON in MASK_TIMES for each mask, with the times of its metadata (ns)."""

import json
import os

from dora import Node

KEYS = ["index", "provisional", "received_ns", "sent_ns"]

with open(os.environ["MASK_TIMES"], "w") as file:
    for event in Node():
        if event["type"] == "INPUT":
            file.write(json.dumps({key: event["metadata"][key] for key in KEYS}) + "\n")
            file.flush()
