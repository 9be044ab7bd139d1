"""Volumes with headers of all kinds, and whether the MR series that were made of them are the same.

    mr_series.py make FOLDER     writes FOLDER/volumes/<case>.nii.gz
    mr_series.py check FOLDER    compares them with what dcm2niix makes of FOLDER/series/<case>/

`check` exits with 77 if dcm2niix is not installed.
"""

import sys
from pathlib import Path

import make_dicom
import nibabel as nib
import numpy as np
import pydicom

NOT_INSTALLED = 77
MILLIMETRES = 1e-4
rng = np.random.default_rng(5)


def rotation(degrees):
    a, b, c = np.radians(degrees)
    x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return x @ y @ z


def affine(sizes, turn=(0, 0, 0), axes=(0, 1, 2), signs=(1, 1, 1), origin=(-31.25, 12.5, -7.125)):
    found = np.eye(4)
    found[:3, :3] = rotation(turn) @ np.eye(3)[:, axes] @ np.diag(np.multiply(sizes, signs))
    found[:3, 3] = origin
    return found


def save(path, voxels, world, slope=None, intercept=0.0, unit="mm"):
    image = nib.Nifti1Image(voxels, world)
    image.header.set_xyzt_units(unit)
    image.set_sform(world, 1)
    image.set_qform(world, 0)
    if slope is not None:
        image.header.set_slope_inter(slope, intercept)
    nib.save(image, path)


def make(folder):
    folder.mkdir(parents=True)
    shape = (9, 7, 5)
    whole = lambda low, high, kind: rng.integers(low, high, shape, endpoint=True).astype(kind)
    real = rng.normal(0, 3, shape).astype(np.float32)
    small = (1, 1.5, 2.5)
    for name, voxels, world in [
        ("axial", whole(-300, 4000, np.int16), affine(small)),
        ("mirrored", whole(0, 900, np.int16), affine(small, signs=(-1, 1, 1))),
        ("radiological", whole(0, 255, np.uint8), affine(small, signs=(-1, -1, 1))),
        ("downwards", whole(0, 255, np.uint8), affine(small, signs=(1, 1, -1))),
        ("coarse_x", whole(0, 900, np.int16), affine((4, 0.75, 1))),
        ("sagittal", whole(0, 900, np.int16), affine(small, axes=(1, 2, 0))),
        ("coronal", whole(0, 900, np.int16), affine(small, axes=(0, 2, 1), signs=(-1, -1, 1))),
        ("oblique", whole(0, 900, np.int16), affine(small, (20, -15, 33))),
        ("oblique_mirrored", whole(0, 900, np.int16), affine(small, (-35, 8, 100), signs=(1, -1, 1))),
        ("isotropic_oblique", whole(0, 900, np.int16), affine((1.2, 1.2, 1.2), (5, 40, -80), axes=(2, 0, 1))),
        ("large", whole(0, 65535, np.uint16), affine(small)),
        ("real", real, affine(small)),
        ("tiny", (real * 1e-6).astype(np.float64), affine(small)),
        ("one_slice", whole(0, 900, np.int16)[:, :, :1], affine(small)),
    ]:
        save(folder / f"{name}.nii.gz", voxels, world)
    save(folder / "scaled.nii.gz", whole(-2000, 2000, np.int16), affine(small, (0, 10, 0)), 0.37, -12.5)
    metres = affine(small)
    metres[:3] /= 1000
    save(folder / "metres.nii.gz", whole(0, 900, np.int16), metres, unit="meter")


def check(root):
    converted = root / "dcm2niix"
    for path in sorted((root / "volumes").iterdir()):
        case = path.name.removesuffix(".nii.gz")
        series = root / "series" / case
        make_dicom.convert(series, converted)
        if not converted.exists():
            sys.exit(NOT_INSTALLED)
        expected, found = (nib.as_closest_canonical(nib.load(image)) for image in (path, converted / f"{case}.nii"))
        world = expected.affine.copy()
        if case == "metres":
            world[:3] *= 1000
        assert found.shape == expected.shape, f"{case}: {found.shape}, expected {expected.shape}"
        error = np.abs(found.affine - world).max()
        assert error < MILLIMETRES, f"{case}: {error} mm\n{found.affine}\n{world}"
        slope = float(pydicom.dcmread(next(series.iterdir()), stop_before_pixels=True).RescaleSlope)
        values = [np.asarray(image.dataobj, np.float64) for image in (expected, found)]
        limit = 0.5001 * slope + 1e-6 * np.abs(values[0]).max() if case in ("real", "tiny", "scaled") else 0
        error = np.abs(values[0] - values[1]).max()
        assert error <= limit, f"{case}: values differ by {error}, slope {slope}"
        check_header(case, series)


def check_header(case, series):
    """Identifiers are unique, and nothing names anybody."""
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in series.iterdir()]
    assert len({header.SOPInstanceUID for header in headers}) == len(headers), case
    assert len({header.SeriesInstanceUID for header in headers}) == 1, case
    for header in headers:
        assert header.SOPInstanceUID == header.file_meta.MediaStorageSOPInstanceUID, case
        assert str(header.PatientName) == header.PatientID == header.PatientBirthDate == "", case


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(Path(sys.argv[2]) / "volumes")
    else:
        check(Path(sys.argv[2]))
