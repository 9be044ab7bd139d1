"""Passes messages on, but loses the first level of every fifth window when it is first sent."""

from dora import Node

node = Node()
for event in node:
    if event["type"] == "INPUT":
        metadata = event["metadata"]
        is_first = metadata["seq"] == 0 and metadata.get("level", 0) == 0
        lost = is_first and metadata["attempt"] == 0 and metadata["segment_id"] % 5 == 2
        if not lost:
            node.send_output("out", event["value"], metadata)
