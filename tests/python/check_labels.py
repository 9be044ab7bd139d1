"""Checks label volumes written for the volumes of make_volumes.py with nibabel 5.

    check_labels.py FOLDER

FOLDER/result_i.nii[.gz] must have the voxels of labels_i, the affine and every header field of image_i but those that
make it labels, the same byte order, the image's extensions and after them one with the names of the classes. Prints every
difference; exits 1 if there is one.
"""

import json
import sys
from pathlib import Path

import nibabel as nib
import numpy as np

CHANGED = {"datatype", "bitpix", "scl_slope", "scl_inter", "vox_offset", "magic"}
# Fields that describe the image's voxels do not apply to labels.
LABELS = {
    "intent_code": 1002, "intent_p1": 0, "intent_p2": 0, "intent_p3": 0, "intent_name": b"", "cal_max": 0, "cal_min": 0,
    "aux_file": b"", "slice_code": 0, "slice_start": 0, "slice_end": 0, "slice_duration": 0, "toffset": 0,
}
NAMES = {"labels": {"1": "a", "2": "b", "3": "c"}}


def differences(folder, index, volume):
    image = nib.load(folder / volume["image"])
    labels = nib.load(folder / volume["labels"])
    result = nib.load(folder / volume["result"])
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
    classes = {"image": type(image.header), "result": type(result.header)}
    raw = {name: classes[name].from_fileobj(file) for name, file in opened(folder, volume).items()}
    for field in image.header.keys():
        before, after = raw["image"][field], raw["result"][field]
        if len(image.shape) == 4 and field == "dim":
            before = np.array([3, *shape, 1, 1, 1, 1])
        elif len(image.shape) == 4 and field == "pixdim":
            before = np.array([*before[:4], 1, 1, 1, 1])
        before = np.array(LABELS.get(field, before), dtype=before.dtype)
        if field not in CHANGED and not np.array_equal(before, after, equal_nan=before.dtype.kind == "f"):
            yield f"{field} is {after}, not {before}"
    stored = plain(folder / volume["result"])
    two = isinstance(image.header, nib.Nifti2Header)
    # nibabel clears the scale fields of the headers it has read, so read the bytes
    for field, value, offset in (("scl_slope", 1, 176 if two else 112), ("scl_inter", 0, 184 if two else 116)):
        found = np.frombuffer(stored[offset : offset + (8 if two else 4)], image.header.endianness + ("f8" if two else "f4"))[0]
        if found != value:
            yield f"{field} is {found}"
    if stored[540 if two else 348] != 1:
        yield "no extension is announced"
    extensions = [[(e.get_code(), e.get_content()) for e in h.extensions] for h in (image.header, result.header)]
    names = extensions[1].pop() if extensions[1] else None
    if names is None or names[0] != 6 or json.loads(bytes(names[1]).rstrip(b"\0")) != NAMES:
        yield f"names of the classes: {names}"
    if extensions[0] != extensions[1]:
        yield "extensions differ"


def plain(path):
    with nib.openers.Opener(str(path)) as file:
        return file.read()


def opened(folder, volume):
    result = volume["result"]
    image = volume["image"].replace(".img", ".hdr")
    return {"image": nib.openers.Opener(str(folder / image)), "result": nib.openers.Opener(str(folder / result))}


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
