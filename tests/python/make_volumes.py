"""Writes small NIfTI volumes of every type, orientation and header variant with nibabel 5, and what nibabel reads
from them.

    make_volumes.py FOLDER

For volume i: image_i.nii[.gz] (or image_i.hdr and .img), labels_i.nii.gz (random labels 0 to 3 on the same grid) and canonical_i.f32, the
image after as_closest_canonical as raw little-endian float32 `[channel, slice, row, column]`, slices along an axis that
the manifest names (or the only one with a single voxel). FOLDER/manifest.json lists them.
"""

import gzip
import itertools
import json
import struct
import sys
from pathlib import Path

import nibabel as nib
import numpy as np

TYPES = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"]
rng = np.random.default_rng(2024)


def rotation(degrees, axis):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    m = np.eye(3)
    a, b = [i for i in range(3) if i != axis]
    m[a, a], m[a, b], m[b, a], m[b, b] = c, -s, s, c
    return m


def affine(directions, zooms, offset=(-12.5, 30.25, 7.0)):
    m = np.eye(4)
    m[:3, :3] = directions @ np.diag(zooms)
    m[:3, 3] = offset
    return m


def voxels(shape, kind):
    """Values over the whole range of the type."""
    dtype = np.dtype(kind)
    if dtype.kind == "f":
        return (rng.standard_normal(shape) * 1000).astype(dtype)
    info = np.iinfo(dtype)
    raw = rng.integers(info.min, info.max, size=shape, dtype=dtype, endpoint=True)
    raw.flat[0], raw.flat[1] = info.min, info.max
    return raw


class Writer:
    def __init__(self, folder):
        self.folder, self.volumes = folder, []

    def add(self, name, raw, matrix, gz=True, order="<", slope=None, forms=None, extension=None, edit=None, made=nib.Nifti1Image):
        header = made.header_class(endianness=order)
        image = made(raw, None if forms == "none" else matrix, header=header, dtype=raw.dtype)
        header = image.header
        if forms == "none":
            header.set_zooms(tuple(np.linalg.norm(matrix[:3, :3], axis=0)[: min(3, raw.ndim)]) + (1.0,) * (raw.ndim - 3))
            header["sform_code"] = header["qform_code"] = 0
        elif forms == "qform":
            image.set_sform(None, 0)
            image.set_qform(matrix, 1)
        elif forms == "sform":
            image.set_qform(None, 0)
            image.set_sform(matrix, 2)
        elif forms == "both":
            image.set_qform(affine(np.eye(3), (1.0, 1.0, 1.0)), 1)
            image.set_sform(matrix, 4)
        header.set_xyzt_units("mm", "sec")
        header["descrip"] = name.encode()[:79]
        header["cal_max"], header["cal_min"], header["aux_file"] = 200.0, -3.0, b"aux"
        if extension is not None:
            header.extensions.append(nib.nifti1.Nifti1Extension("comment", extension))
        if edit is not None:
            edit(header)
        index = len(self.volumes)
        if made in (nib.Nifti1Pair, nib.Nifti2Pair):
            nib.save(image, self.folder / f"image_{index}.hdr{'.gz' if gz else ''}")
            path = next(self.folder.glob(f"image_{index}.{'hdr' if index % 2 else 'img'}*"))
        else:
            plain = image.to_bytes()
            if slope is not None:
                at, kind = (176, "d") if made is nib.Nifti2Image else (112, "f")
                fields = b"".join(struct.pack(order + kind, value) for value in slope)
                plain = plain[:at] + fields + plain[at + len(fields) :]
            path = self.folder / f"image_{index}.nii{'.gz' if gz else ''}"
            path.write_bytes(gzip.compress(plain, mtime=0) if gz else plain)

        read = nib.load(path)
        data = read.get_fdata(dtype=np.float64)
        grid = raw.shape[:3] + (1,) * (3 - min(3, raw.ndim))
        channels = raw.shape[3] if raw.ndim == 4 else 1
        data = data.reshape(grid + (channels,))
        canonical = nib.as_closest_canonical(nib.Nifti1Image(data, read.affine))
        spacing = nib.affines.voxel_sizes(canonical.affine)
        single = [axis for axis in range(3) if canonical.shape[axis] == 1]
        chosen = (2 + index) % 3
        slices = single[0] if len(single) == 1 else chosen
        order_of_axes = [slices] + [axis for axis in (2, 1, 0) if axis != slices]
        expected = np.transpose(canonical.get_fdata(), [3] + order_of_axes).astype("<f4")
        expected.tofile(self.folder / f"canonical_{index}.f32")
        labels = rng.integers(0, 4, size=raw.shape[:3], dtype=np.uint8)
        nib.save(nib.Nifti1Image(labels, read.affine), self.folder / f"labels_{index}.nii.gz")
        self.volumes.append(
            {
                "name": name,
                "image": path.name,
                "labels": f"labels_{index}.nii.gz",
                "result": f"result_{index}.nii{'.gz' if gz else ''}",
                "canonical": f"canonical_{index}.f32",
                "slice_axis": ["sagittal", "coronal", "axial"][chosen],
                "canonical_shape": list(expected.shape),
                "spacing_mm": [float(spacing[axis]) for axis in order_of_axes],
            }
        )


def main(folder):
    folder.mkdir(parents=True, exist_ok=True)
    out = Writer(folder)
    shape, zooms = (7, 9, 5), (0.9, 1.1, 2.5)
    # Every flip and permutation, every type.
    kinds = itertools.cycle(TYPES)
    for permutation in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            directions = np.eye(3)[:, list(permutation)] * np.array(signs)
            kind = next(kinds)
            out.add(f"{permutation}{signs}{kind}", voxels(shape, kind), affine(directions, zooms), gz=len(out.volumes) % 3 > 0)
    # Oblique, strongly oblique, sheared; other coarsest axes; equal spacing.
    tilt = rotation(17, 0) @ rotation(-25, 1) @ rotation(8, 2)
    steep = rotation(44, 2) @ rotation(46, 0)
    out.add("oblique", voxels(shape, "i2"), affine(tilt, zooms))
    out.add("oblique flipped", voxels(shape, "f4"), affine(tilt @ np.diag([-1, 1, -1]), zooms))
    out.add("steep", voxels(shape, "u2"), affine(steep, zooms))
    sheared = affine(np.eye(3), zooms)
    sheared[0, 1], sheared[2, 0] = 0.4, -0.5
    out.add("sheared", voxels(shape, "i2"), sheared, forms="sform")
    out.add("coarsest x", voxels(shape, "i2"), affine(np.diag([-1, 1, 1]), (4.0, 1.0, 1.0)))
    out.add("coarsest y", voxels(shape, "i2"), affine(tilt, (1.0, 5.0, 1.0)))
    out.add("isotropic", voxels(shape, "i2"), affine(np.diag([-1, -1, 1]), (1.0, 1.0, 1.0)))
    # Forms.
    for forms in ("none", "qform", "sform", "both"):
        out.add(f"forms {forms}", voxels(shape, "i2"), affine(tilt, zooms), forms=forms)
    out.add("left-handed qform", voxels(shape, "i2"), affine(tilt @ np.diag([1, 1, -1]), zooms), forms="qform")
    # Slopes; 0 and NaN mean none.
    out.add("slope", voxels(shape, "i2"), affine(tilt, zooms), slope=(0.0173, -1024.0))
    out.add("slope u8", voxels(shape, "u1"), affine(tilt, zooms), slope=(1.0, 5.0))
    out.add("slope f8", voxels(shape, "f8"), affine(tilt, zooms), slope=(-2.5, 0.125))
    out.add("slope 0", voxels(shape, "i2"), affine(tilt, zooms), slope=(0.0, 7.0))
    out.add("slope nan", voxels(shape, "i4"), affine(tilt, zooms), slope=(float("nan"), float("nan")))
    out.add("slope u64", voxels(shape, "u8"), affine(tilt, zooms), slope=(0.5, 3.0))
    # Big-endian.
    for kind in ("i2", "f4", "f8", "u4", "i8"):
        raw = voxels(shape, kind)
        out.add(f"big-endian {kind}", raw.astype(raw.dtype.newbyteorder(">")), affine(tilt, zooms), order=">", gz=kind != "f4")
    out.add("big-endian slope", voxels(shape, "i2"), affine(tilt, zooms), order=">", slope=(3.5, 1.5), extension=b"big")
    # 2D, one slice, 4D.
    out.add("2D", voxels((11, 6), "i2"), affine(np.eye(3), (2.0, 2.0, 1.0)))
    out.add("2D flipped", voxels((11, 6), "u1"), affine(np.diag([-1, -1, 1]), (2.0, 3.0, 1.0)), gz=False)
    out.add("2D sagittal", voxels((11, 6), "f4"), affine(np.eye(3)[:, [1, 2, 0]], (0.7, 0.7, 0.5)))
    out.add("one slice", voxels((8, 6, 1), "i2"), affine(np.diag([-1, 1, 1]), (2.0, 2.0, 1.0)))
    out.add("one column", voxels((1, 6, 8), "i2"), affine(np.eye(3), (1.0, 2.0, 2.0)))
    out.add("4D", voxels((6, 7, 4, 3), "i2"), affine(np.diag([-1, -1, 1]), (1.0, 1.0, 3.0)))
    out.add("4D of one", voxels((6, 7, 4, 1), "f4"), affine(tilt, (1.0, 1.0, 3.0)))
    out.add("4D big-endian", voxels((6, 7, 4, 2), "i2"), affine(tilt, (1.0, 1.0, 3.0)), order=">", slope=(2.0, 1.0))
    # Extensions and other header fields.
    out.add("extension", voxels(shape, "i2"), affine(tilt, zooms), extension=b"a comment that must survive", gz=False)
    out.add("long extension", voxels(shape, "f4"), affine(tilt, zooms), extension=bytes(range(256)) * 50)

    def intent(header):
        header.set_intent("estimate", name="probabilities")
        header["slice_duration"], header["toffset"] = 0.25, 3.5
        header["dim_info"], header["slice_code"] = 57, 1

    out.add("fields", voxels(shape, "i2"), affine(tilt, zooms), edit=intent)
    # Version 2, and pairs of files.
    for kind, order, gz in (("i2", "<", True), ("f8", ">", False), ("u1", ">", True)):
        raw = voxels(shape, kind)
        raw = raw.astype(raw.dtype.newbyteorder(order))
        out.add(f"NIfTI-2 {order}{kind}", raw, affine(tilt, zooms), gz, order, made=nib.Nifti2Image, extension=b"two", edit=intent)
        out.add(f"pair {order}{kind}", raw, affine(tilt, zooms), gz, order, made=nib.Nifti1Pair, extension=b"pair")
        out.add(f"pair of version 2 {order}{kind}", raw, affine(tilt, zooms), gz, order, made=nib.Nifti2Pair)
    out.add("NIfTI-2 slope", voxels(shape, "i2"), affine(tilt, zooms), slope=(0.25, -7.5), made=nib.Nifti2Image)
    out.add("NIfTI-2 4D", voxels((6, 7, 4, 3), "i2"), affine(np.diag([-1, -1, 1]), (1.0, 1.0, 3.0)), made=nib.Nifti2Image)
    out.add("NIfTI-2 qform", voxels(shape, "i2"), affine(tilt, zooms), forms="qform", made=nib.Nifti2Image)
    (folder / "manifest.json").write_text(json.dumps(out.volumes, indent=1))
    print(f"{len(out.volumes)} volumes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
