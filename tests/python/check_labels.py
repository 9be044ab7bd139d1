"""Checks label volumes written for the volumes of make_volumes.py with nibabel 5.

    check_labels.py FOLDER

FOLDER/result_i.nii[.gz] must have the voxels of labels_i, the affine and every header field of image_i but those that
make it labels, the same byte order and the same extensions. Prints every difference; exits 1 if there is one.
"""

import json
import sys
from pathlib import Path

import nibabel as nib
import numpy as np

CHANGED = {"datatype", "bitpix", "scl_slope", "scl_inter", "cal_max", "cal_min"}


def differences(folder, index, volume):
    image = nib.load(folder / volume["image"])
    labels = nib.load(folder / volume["labels"])
    result = nib.load(folder / volume["image"].replace("image", "result"))
    shape = image.shape[:3]
    if result.shape != shape:
        yield f"shape {result.shape}, not {shape}"
        return
    if result.get_data_dtype() != np.uint8 or result.header.endianness != image.header.endianness:
        yield f"type {result.get_data_dtype()} {result.header.endianness}"
    if not np.array_equal(np.asanyarray(result.dataobj), np.asanyarray(labels.dataobj)):
        yield f"{np.count_nonzero(np.asanyarray(result.dataobj) != np.asanyarray(labels.dataobj))} voxels differ"
    if not np.array_equal(result.affine, image.affine):
        yield "affine differs"
    raw = {name: nib.Nifti1Header.from_fileobj(file) for name, file in opened(folder, volume).items()}
    for field in image.header.keys():
        before, after = raw["image"][field], raw["result"][field]
        if field == "dim" and len(image.shape) == 4:
            before = np.array([3, *shape, 1, 1, 1, 1])
        if field not in CHANGED and not np.array_equal(before, after, equal_nan=before.dtype.kind == "f"):
            yield f"{field} is {after}, not {before}"
    for field, value in {"scl_slope": 1.0, "scl_inter": 0.0, "cal_max": 0.0, "cal_min": 0.0}.items():
        # nibabel clears the scale fields of the headers it has read, so read the bytes
        offset = {"scl_slope": 112, "scl_inter": 116, "cal_max": 124, "cal_min": 128}[field]
        stored = np.frombuffer(plain(folder / volume["image"].replace("image", "result"))[offset : offset + 4],
                               dtype=image.header.endianness + "f4")[0]
        if stored != value:
            yield f"{field} is {stored}"
    extensions = [[(e.get_code(), e.get_content()) for e in h.extensions] for h in (image.header, result.header)]
    if extensions[0] != extensions[1]:
        yield "extensions differ"


def plain(path):
    with nib.openers.Opener(str(path)) as file:
        return file.read()


def opened(folder, volume):
    result = volume["image"].replace("image", "result")
    return {"image": nib.openers.Opener(str(folder / volume["image"])), "result": nib.openers.Opener(str(folder / result))}


def main(folder):
    volumes = json.loads((folder / "manifest.json").read_text())
    found = 0
    for index, volume in enumerate(volumes):
        for difference in differences(folder, index, volume):
            print(f"{volume['image']} ({volume['name']}): {difference}")
            found += 1
    print(f"{len(volumes)} volumes, {found} differences")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
