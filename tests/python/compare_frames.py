"""Compares images that arrived at a node with the DICOM files that were sent, as pydicom reads them.

    compare_frames.py TOLERANCE FRAMES SERIES...

TOLERANCE is how far pixels may differ; FRAMES is the folder of frames_receiver.py; each SERIES is a folder with the files of one
series.
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pydicom


def planes(dataset):
    """Values, position, directions and pixel size of every image of a file."""
    pixels = dataset.pixel_array
    if "PerFrameFunctionalGroupsSequence" not in dataset:
        slope, intercept = float(dataset.get("RescaleSlope", 1)), float(dataset.get("RescaleIntercept", 0))
        yield pixels * slope + intercept, dataset.ImagePositionPatient, dataset.ImageOrientationPatient, dataset.PixelSpacing
        return
    shared = dataset.SharedFunctionalGroupsSequence[0]
    rescale = shared.PixelValueTransformationSequence[0]
    for plane, frame in zip(pixels, dataset.PerFrameFunctionalGroupsSequence):
        yield (
            plane * float(rescale.RescaleSlope) + float(rescale.RescaleIntercept),
            frame.PlanePositionSequence[0].ImagePositionPatient,
            shared.PlaneOrientationSequence[0].ImageOrientationPatient,
            shared.PixelMeasuresSequence[0].PixelSpacing,
        )


def rounded(values):
    return tuple(round(float(value), 4) for value in values)


def main(tolerance, frames, folders):
    count = 0
    for folder in folders:
        datasets = [pydicom.dcmread(path) for path in sorted(folder.iterdir())]
        series_id = hashlib.sha256(datasets[0].SeriesInstanceUID.encode()).hexdigest()[:16]
        files = sorted(frames.glob(f"{series_id}.*.npz"))
        assert files, f"{folder}: no images arrived"
        expected = {rounded(position): rest for dataset in datasets for *rest, position in
                    [(v, o, s, p) for v, p, o, s in planes(dataset)]}
        arrived = np.load(files[-1])
        metadata = json.loads(str(arrived["metadata"]))
        assert len(metadata) == len(expected), f"{folder}: {len(metadata)} images of {len(expected)}"
        for index, meta in enumerate(metadata):
            values, orientation, spacing = expected.pop(rounded(meta["position"]))
            np.testing.assert_allclose(arrived[f"image_{index}"], np.float32(values), 0, tolerance, err_msg=str(folder))
            np.testing.assert_allclose(meta["orientation"], [float(x) for x in orientation], atol=1e-6)
            assert rounded(meta["pixel_spacing"]) == rounded(spacing)
            assert not any("secret" in str(value).lower() for value in meta.values())
            count += 1
        assert not expected
    print(f"{count} images")


if __name__ == "__main__":
    main(float(sys.argv[1]), Path(sys.argv[2]), [Path(argument) for argument in sys.argv[3:]])
