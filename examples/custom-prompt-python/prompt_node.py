"""A template for a prompt node: boxes of all classes in a slice, from auxiliary masks or from labels."""

import numpy as np
import pyarrow as pa
from dora import Node


def class_masks(input_id, array, metadata):
    """The mask of each class: bool [N, H, W]; class 0 is the background."""
    values = array.to_numpy(zero_copy_only=False).reshape(metadata["shape"])
    if input_id == "aux_masks":  # logits [N, H, W]: the largest one determines the class
        classes, winner = len(values), values.argmax(axis=0)
    else:  # labels [H, W]
        classes, winner = metadata["classes"], values
    return winner == np.arange(classes)[:, None, None]


def box_of(mask):
    """Replace this with your own idea: the box prompt (x0, y0, x1, y1), in pixels of a mask [H, W]
    that has at least one pixel."""
    ys, xs = np.nonzero(mask)
    return xs.min(), ys.min(), xs.max(), ys.max()


def prompts_of(masks, image_size):
    """One row per class: label 1 and the box, in pixels of the square model input, or label -1 and zeros if the class is not
    in the slice."""
    classes, height, width = masks.shape
    sides = np.array([width, height, width, height], np.float32)
    labels = np.full(classes, -1, np.float32)
    boxes = np.zeros((classes, 4), np.float32)
    for row in np.flatnonzero(masks.any(axis=(1, 2))):
        labels[row] = 1
        boxes[row] = (np.array(box_of(masks[row]), np.float32) + 0.5) * image_size / sides - 0.5
    boxes = pa.FixedSizeListArray.from_arrays(pa.array(boxes.ravel()), 4)
    return pa.StructArray.from_arrays([pa.array(labels), boxes], names=["label", "box"])


def run(node):
    """Answers every slice with its own metadata; returns when dora ends the event stream."""
    for event in node:
        if event["type"] == "INPUT":
            metadata = event["metadata"]
            masks = class_masks(event["id"], event["value"], metadata)
            prompts = prompts_of(masks, metadata["image_size"])
            node.send_output("prompts", prompts, {**metadata, "shape": [len(prompts)]})


if __name__ == "__main__":
    run(Node())
