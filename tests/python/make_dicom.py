"""Writes small DICOM series with pydicom 3, the volumes that they stand for (nibabel), and what dcm2niix makes of them.

    make_dicom.py FOLDER

FOLDER/good/<case>/ has the files of one volume, in any order; FOLDER/own/<case>.nii.gz is the volume by the arithmetic
of PS3.3 C.7.6.2.1.1, FOLDER/dcm2niix/<case>.nii that of dcm2niix if it is installed. FOLDER/split/<case>/ has several
volumes and FOLDER/bad/<case>/ none; FOLDER/corpus/ has pydicom's test files.
"""

import shutil
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
from pydicom.data import get_testdata_files
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage, EnhancedMRImageStorage, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian,
    JPEGLSLossless, MRImageStorage, RLELossless,
)

SHAPE = (5, 7, 9)  # slices, rows, columns
PIXEL = (1.25, 0.75)  # between rows, between columns
STEP = 2.5
AXIAL = ((1, 0, 0), (0, 1, 0))
SAGITTAL = ((0, 1, 0), (0, 0, -1))
CORONAL = ((1, 0, 0), (0, 0, -1))
rng = np.random.default_rng(16)


def generate_uid():
    return pydicom.uid.generate_uid(prefix="1.2.826.0.1.3680043.8.498.")[:60].rstrip(".")


def oblique(directions, degrees=(20, -15)):
    a, b = np.radians(degrees)
    x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    return tuple(z @ x @ np.array(direction, float) for direction in directions)


def text(numbers):
    return [f"{number:.10g}" for number in numbers]


def places(directions, slices=SHAPE[0], step=STEP):
    normal = np.cross(*directions)
    return [np.array([-60.5, -40.25, 12.75]) + normal * step * k for k in range(slices)]


def volume():
    return rng.integers(0, 900, SHAPE).astype(np.uint16)


def base(sop, series, syntax, signed):
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = sop, syntax
    meta.MediaStorageSOPInstanceUID = generate_uid()
    implicit, little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
    ds = FileDataset(None, {}, b"\0" * 128, meta, is_implicit_VR=implicit, is_little_endian=little)
    ds.SOPClassUID, ds.SOPInstanceUID = sop, meta.MediaStorageSOPInstanceUID
    ds.Modality = "CT" if sop == CTImageStorage else "MR"
    ds.PatientName, ds.PatientID = "Secret^Name", "SECRET-ID"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = series, f"{series}.1", f"{series}.2"
    ds.SeriesNumber, ds.SeriesDescription, ds.Manufacturer = 4, "test", "GE MEDICAL SYSTEMS"
    ds.StudyDate, ds.StudyTime, ds.ContentDate, ds.ContentTime = "20250101", "120000", "20250101", "120000"
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, int(signed)
    ds.ImageType = ["ORIGINAL", "PRIMARY", "M"]
    return ds


def write(ds, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)


def slices(
    voxels, directions, sop=MRImageStorage, syntax=ExplicitVRLittleEndian, rescale=None, series=None, at=None, **more
):
    """One data set for each slice."""
    series = series or generate_uid()
    for k, (plane, place) in enumerate(zip(voxels, at if at is not None else places(directions))):
        ds = base(sop, series, syntax, voxels.dtype.kind == "i")
        ds.Rows, ds.Columns, ds.PixelSpacing = *plane.shape, text(PIXEL)
        ds.SliceThickness, ds.InstanceNumber = "9", k + 1  # not the distance of the slices
        ds.ImagePositionPatient, ds.ImageOrientationPatient = text(place), text(np.ravel(directions))
        ds.MRAcquisitionType, ds.EchoTime = "2D", "10"
        if rescale:
            ds.RescaleSlope, ds.RescaleIntercept = text(rescale[k])
        ds.PixelData = plane.astype(plane.dtype.newbyteorder(">" if syntax == ExplicitVRBigEndian else "<")).tobytes()
        ds["PixelData"].VR = "OW"
        for name, value in more.items():
            setattr(ds, name, value)
        if syntax == RLELossless:
            ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            ds.compress(RLELossless)
        yield ds


def save(folder, sets, reverse=False):
    sets = list(sets)
    names = rng.permutation(len(sets)) if not reverse else range(len(sets))[::-1]
    for name, ds in zip(names, sets):
        write(ds, folder / f"{name:02}.{['dcm', 'IMA', 'x', '1'][name % 4]}")


def own(path, voxels, directions, rescale=None):
    """PS3.3 C.7.6.2.1.1 from LPS to RAS, with rows from the last to the first."""
    if rescale is not None:
        voxels = np.stack([plane.astype(float) * slope + intercept for plane, (slope, intercept) in zip(voxels, rescale)])
    row, column = np.array(directions, float)
    place = places(directions)
    lps = np.eye(4)
    lps[:3, 0], lps[:3, 1], lps[:3, 2] = row * PIXEL[1], column * PIXEL[0], place[1] - place[0]
    lps[:3, 3] = place[0]
    flip = np.eye(4)
    flip[1, 1], flip[1, 3] = -1, voxels.shape[1] - 1
    affine = np.diag([-1, -1, 1, 1]) @ lps @ flip
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(voxels[:, ::-1].T.astype(np.float32), affine).to_filename(path)


def enhanced(voxels, directions):
    # Without SpacingBetweenSlices, dcm2niix takes the distance of enhanced slices from SliceThickness.
    ds = base(EnhancedMRImageStorage, generate_uid(), ExplicitVRLittleEndian, False)
    ds.NumberOfFrames, ds.Rows, ds.Columns = voxels.shape
    ds.InstanceNumber, ds.MRAcquisitionType = 1, "2D"
    def sequence(**values):
        item = Dataset()
        for name, value in values.items():
            setattr(item, name, value)
        return [item]
    shared = Dataset()
    shared.PixelMeasuresSequence = sequence(PixelSpacing=text(PIXEL), SliceThickness=text([STEP])[0])
    shared.PlaneOrientationSequence = sequence(ImageOrientationPatient=text(np.ravel(directions)))
    shared.PixelValueTransformationSequence = sequence(RescaleSlope="2", RescaleIntercept="-7", RescaleType="US")
    ds.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for k, place in enumerate(places(directions)):
        frame = Dataset()
        frame.PlanePositionSequence = sequence(ImagePositionPatient=text(place))
        content = sequence(StackID="1", InStackPositionNumber=k + 1, DimensionIndexValues=[1, k + 1])
        frame.FrameContentSequence = content
        frames.append(frame)
    ds.PerFrameFunctionalGroupsSequence = frames
    ds.PixelData = voxels.tobytes()
    return ds


def good(root):
    for name, directions in [
        ("axial", AXIAL), ("sagittal", SAGITTAL), ("coronal", CORONAL), ("oblique", oblique(AXIAL)),
        ("oblique_sagittal", oblique(SAGITTAL)), ("negated", ((-1, 0, 0), (0, -1, 0))), ("upside_down", ((1, 0, 0), (0, -1, 0))),
    ]:
        voxels = volume()
        save(root / "good" / name, slices(voxels, directions))
        own(root / "own" / f"{name}.nii.gz", voxels, directions)
    for name, syntax in [("implicit", ImplicitVRLittleEndian), ("big_endian", ExplicitVRBigEndian), ("rle", RLELossless)]:
        voxels = volume()
        save(root / "good" / name, slices(voxels, AXIAL, syntax=syntax))
        own(root / "own" / f"{name}.nii.gz", voxels, AXIAL)
    voxels = volume()
    save(root / "good/reversed", list(slices(voxels, AXIAL))[::-1], reverse=True)
    own(root / "own/reversed.nii.gz", voxels, AXIAL)
    voxels, rescale = volume().astype(np.int16) - 400, [(0.5, -1024)] * SHAPE[0]
    save(root / "good/ct", slices(voxels, AXIAL, sop=CTImageStorage, rescale=rescale))
    own(root / "own/ct.nii.gz", voxels, AXIAL, rescale)
    voxels, rescale = volume(), [(0.25 * (k + 1), k) for k in range(SHAPE[0])]
    save(root / "good/slopes", slices(voxels, AXIAL, rescale=rescale))
    own(root / "own/slopes.nii.gz", voxels, AXIAL, rescale)
    for name, directions in [("enhanced", AXIAL), ("enhanced_oblique", oblique(CORONAL))]:
        voxels = volume()
        write(enhanced(voxels, directions), root / "good" / name / "object")
        own(root / "own" / f"{name}.nii.gz", voxels, directions, [(2, -7)] * SHAPE[0])


def split(root):
    """Volumes k of a case have all voxels equal to k."""
    def several(case, series, variants):
        sets = [
            ds for k, (directions, more) in enumerate(variants)
            for ds in slices(np.full(SHAPE, k + 1, np.uint16), directions, series=series, **more)
        ]
        save(root / "split" / case, sets)
    uid = generate_uid()
    several("echoes", uid, [(AXIAL, {"EchoTime": t}) for t in ("2.5", "12")])
    several("dixon", uid, [(AXIAL, {"ImageType": ["DERIVED", "PRIMARY", kind]}) for kind in ("FAT", "WATER")])
    several("times", uid, [(AXIAL, {"TemporalPositionIdentifier": k}) for k in (1, 2, 3)])
    several("planes", uid, [(AXIAL, {}), (SAGITTAL, {})])
    several("cine", uid, [(AXIAL, {"TriggerTime": t}) for t in ("5", "305")])
    several("two_series", None, [(AXIAL, {"SeriesNumber": k, "SeriesInstanceUID": f"1.2.3.{k}"}) for k in (3, 11)])


def bad(root):
    def case(name, sets):
        save(root / "bad" / name, sets)
    whole = lambda **more: list(slices(volume(), AXIAL, **more))
    case("gap", [ds for k, ds in enumerate(whole()) if k != 2])
    twice = whole()
    case("twice", [*twice, deepcopy(twice[1])])
    shear = [place + np.array([0, 0.6 * k, 0]) for k, place in enumerate(places(AXIAL))]
    case("tilt", slices(volume(), AXIAL, at=shear))
    small = next(slices(volume()[:, :6], AXIAL, series="1.2.3"))
    case("sizes", [*list(slices(volume(), AXIAL, series="1.2.3"))[1:], small])
    case("inverse", whole(PhotometricInterpretation="MONOCHROME1"))
    case("colour", whole(SamplesPerPixel=3, PhotometricInterpretation="RGB"))
    case("no_place", whole(ImagePositionPatient=None))
    case("lies", whole(Rows=4000, Columns=4000))
    case("huge", whole(Rows=65535, Columns=65535))
    sets = whole()
    for ds in sets:
        ds.file_meta.TransferSyntaxUID = JPEGLSLossless
        ds.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8\xff\xf7"])
        ds["PixelData"].is_undefined_length, ds["PixelData"].VR = True, "OB"
    case("jpeg_ls", sets)
    case("truncated", whole())
    path = sorted((root / "bad/truncated").iterdir())[0]
    path.write_bytes(path.read_bytes()[:-20])
    (root / "bad/garbage").mkdir()
    (root / "bad/garbage/a.dcm").write_bytes(b"no DICOM")


def convert(series, to):
    """Writes <to>/<name of the series>.nii with dcm2niix, if it is installed."""
    program = shutil.which("dcm2niix")
    if program:
        to.mkdir(exist_ok=True)
        arguments = ["-b", "n", "-z", "n", "-f", series.name, "-o", to, series]
        subprocess.run([program, *arguments], check=True, stdout=subprocess.DEVNULL)


def main(root):
    shutil.rmtree(root, ignore_errors=True)
    good(root)
    split(root)
    bad(root)
    (root / "corpus").mkdir()
    for path in map(Path, get_testdata_files()):
        if path.suffix == ".dcm" and path.is_file():
            shutil.copy(path, root / "corpus" / path.name)
    for folder in sorted((root / "good").iterdir()):
        convert(folder, root / "dcm2niix")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
