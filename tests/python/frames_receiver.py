"""A node that takes the images of a live series as a loader does, and writes them.

Writes FOLDER/<series>.<revision>.npz with the pixels in the order of arrival and their metadata when a series is complete, FOLDER
being SPSAM_OUTPUT/frames. With LOSE=1 it acknowledges no image when it first comes. Ends after SERIES series.
"""

import json
import os
import uuid
from pathlib import Path

import numpy as np
import pyarrow as pa
from dora import Node

folder = Path(os.environ["SPSAM_OUTPUT"]) / "frames"
folder.mkdir(parents=True, exist_ok=True)
loses = os.environ.get("LOSE") == "1"
left = int(os.environ["SERIES"])
node, loader_id = Node(), str(uuid.uuid4())
images, ends, seen = {}, {}, set()


def say(ack):
    node.send_output("frame_ack", pa.array([json.dumps({"loader_id": loader_id, "ack": ack})]))


def series_of(key):
    return {"series_id": key[0], "revision": key[1]}


def finish(key):
    """Writes a series that is complete."""
    count = ends.get(key)
    found = images.get(key, {})
    if count is None or len(found) < count:
        return False
    order = sorted(found)
    assert order == list(range(count)), order
    metadata = [found[index][0] for index in order]
    pixels = {f"image_{index}": found[index][1] for index in order}
    np.savez(folder / f"{key[0]}.{key[1]}.npz", metadata=json.dumps(metadata), **pixels)
    del ends[key]
    say({"done": {**series_of(key), "error": None}})
    print("series complete", flush=True)
    return True


say("hello")
for event in node:
    if event["type"] != "INPUT":
        continue
    key = None
    if event["id"] == "frames":
        metadata = {name: value for name, value in event["metadata"].items() if name not in ("timestamp", "open_telemetry_context")}
        key, index = (metadata["series_id"], metadata["revision"]), metadata["index"]
        if loses and (key, index) not in seen:
            seen.add((key, index))
            continue
        pixels = event["value"].to_numpy(zero_copy_only=False).reshape(metadata["shape"])
        metadata = {name: value for name, value in metadata.items() if isinstance(value, (int, float, str, list))}
        images.setdefault(key, {})[index] = (metadata, np.array(pixels))
        say({"images": {**series_of(key), "indices": [index]}})
    elif event["id"] == "series":
        (kind, message), = json.loads(event["value"][0].as_py()).items()
        key = (message["series_id"], message["revision"])
        print(kind, json.dumps(message), flush=True)
        if kind == "closed":
            ends[key] = message["images"]
        elif kind == "failed":
            say({"done": {**series_of(key), "error": message["error"]}})
    if key and finish(key):
        left -= 1
        if left == 0:
            break
