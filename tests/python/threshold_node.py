"""In place of the network: class 1 where a slice is brighter than a half. The network is not needed to see which windows
are sent."""

import numpy as np
import pyarrow as pa
from dora import Node

node = Node()
for event in node:
    if event["type"] == "INPUT":
        metadata = event["metadata"]
        _, height, width = metadata["shape"]
        values = event["value"].to_numpy(zero_copy_only=False).reshape(height, width)
        logits = np.zeros((metadata["classes"], height, width), np.float32)
        logits[1] = values - 0.5
        shape = [metadata["classes"], height, width]
        node.send_output("logits", pa.array(logits.ravel()), {**metadata, "shape": shape})
