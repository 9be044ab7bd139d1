"""A node that takes pictures as opencv-plot of dora-hub does, and writes each to
`<OVERLAYS_TO>/<index>_<provisional or final>.npy`."""

import os

import numpy as np
from dora import Node

folder = os.environ["OVERLAYS_TO"]
os.makedirs(folder, exist_ok=True)
for event in Node():
    if event["type"] == "INPUT":
        metadata = event["metadata"]
        assert metadata["encoding"] == "rgb8" and metadata["primitive"] == "image", metadata
        storage = event["value"]
        picture = storage.to_numpy().astype(np.uint8).reshape((metadata["height"], metadata["width"], 3))
        kind = "provisional" if metadata["provisional"] else "final"
        path = os.path.join(folder, f"{metadata['index']:03}_{kind}.npy")
        with open(path + ".part", "wb") as file:
            np.save(file, picture)
        os.replace(path + ".part", path)
