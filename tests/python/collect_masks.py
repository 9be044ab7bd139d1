"""A node that writes every mask to `<MASKS_TO>/<index>_<provisional or final>.npy`, row by row."""

import os

import numpy as np
from dora import Node

folder = os.environ["MASKS_TO"]
os.makedirs(folder, exist_ok=True)
for event in Node():
    if event["type"] == "INPUT":
        metadata = event["metadata"]
        kind = "provisional" if metadata["provisional"] else "final"
        mask = event["value"].to_numpy(zero_copy_only=False).reshape(metadata["shape"])
        path = os.path.join(folder, f"{metadata['index']:03}_{kind}.npy")
        with open(path + ".part", "wb") as file:
            np.save(file, mask.astype(np.uint8))
        os.replace(path + ".part", path)
