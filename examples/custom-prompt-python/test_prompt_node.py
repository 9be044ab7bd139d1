"""Drives prompt_node.run with dora's MockNode: `python test_prompt_node.py`."""

import unittest

import numpy as np
import pyarrow as pa
from dora.testing import MockNode

import prompt_node

METADATA = {
    "session_id": "s", "segment_id": 7, "classes": 4, "image_size": 64, "seq": 3, "count": 8, "attempt": 1,
    "case_id": "case",
}


class Recorder(MockNode):
    """Also keeps the metadata of outputs."""

    def send_output(self, output_id, data, metadata=None):
        super().send_output(output_id, (data, metadata), metadata)


def answers(input_id, values, **metadata):
    event = {
        "type": "INPUT",
        "id": input_id,
        "value": pa.array(values.ravel()),
        "metadata": {**METADATA, "shape": list(values.shape), **metadata},
    }
    node = Recorder([event])
    prompt_node.run(node)
    return node.outputs["prompts"]


def labels():
    """16 rows of 32 pixels: class 1 and class 3, no class 2."""
    values = np.zeros((16, 32), np.uint8)
    values[4:8, 8:24] = 1
    values[15, 31] = 3
    return values


EXPECTED = [
    {"label": 1, "box": [0.5, 1.5, 62.5, 61.5]},
    {"label": 1, "box": [16.5, 17.5, 46.5, 29.5]},
    {"label": -1, "box": [0, 0, 0, 0]},
    {"label": 1, "box": [62.5, 61.5, 62.5, 61.5]},
]


class PromptNode(unittest.TestCase):
    def test_labels_become_boxes_in_pixels_of_the_model_input(self):
        [(prompts, metadata)] = answers("labels", labels())
        self.assertEqual(prompts.to_pylist(), EXPECTED)
        self.assertEqual(metadata, {**METADATA, "shape": [4]})

    def test_the_type_is_the_one_on_the_edge(self):
        [(prompts, _)] = answers("labels", labels())
        self.assertEqual(prompts.type.field("label").type, pa.float32())
        self.assertEqual(prompts.type.field("box").type, pa.list_(pa.float32(), 4))

    def test_auxiliary_masks_give_the_boxes_of_their_largest_logits(self):
        for dtype in (np.float32, np.float16):
            logits = np.where(labels() == np.arange(4)[:, None, None], 5, -5).astype(dtype)
            [(prompts, metadata)] = answers("aux_masks", logits)
            self.assertEqual(prompts.to_pylist(), EXPECTED)
            self.assertEqual(metadata["shape"], [4])

    def test_the_metadata_say_how_many_classes_there_are(self):
        [(prompts, metadata)] = answers("labels", labels(), classes=6)
        self.assertEqual([row["label"] for row in prompts.to_pylist()], [1, 1, -1, 1, -1, -1])
        self.assertEqual(metadata["classes"], 6)

    def test_other_events_are_ignored(self):
        node = Recorder([{"type": "INPUT_CLOSED", "id": "labels"}])
        prompt_node.run(node)
        self.assertEqual(node.outputs, {})


if __name__ == "__main__":
    unittest.main()
