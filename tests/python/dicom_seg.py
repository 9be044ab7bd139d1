"""DICOM series to segment, and checks of the segmentations by other programs.

    dicom_seg.py series FOLDER      writes FOLDER/series/<case>/, and FOLDER/refused/<case>/ that cannot be segmented
    dicom_seg.py attributes FOLDER  compares attributes with those of the series (pydicom 3)
    dicom_seg.py highdicom FOLDER   compares voxels with highdicom 0.28
    dicom_seg.py dcmqi FOLDER       compares voxels with segimage2itkimage of dcmqi 1.5

A check compares every FOLDER/result/<case>.seg.dcm with the label map FOLDER/result/<case>.nii.gz on the grid of the
series, prints every difference, and exits with 1 if there is one, or with 77 if its program is not installed.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import make_dicom as make
import nibabel as nib
import numpy as np
import pydicom
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

NOT_INSTALLED = 77
RAS = np.diag([-1, -1, 1, 1])
# Specific Character Set, and a name in it; the last is a set that our reader does not know.
NAMES = {
    "latin": ("ISO_IR 100", "M\u00fcller^Zo\u00eb"), "unicode": ("ISO_IR 192", "\u5c71\u7530^\u592a\u90ce"),
    "greek": ("ISO_IR 126", "\u0394\u03b9\u03bf\u03bd\u03c5\u03c3\u03b9\u03bf\u03c2"), "chinese": ("GB18030", "\u738b^\u5c0f\u4e1c"),
    "japanese": (["", "ISO 2022 IR 87"], "Yamada^Tarou=\u5c71\u7530^\u592a\u90ce=\u3084\u307e\u3060^\u305f\u308d\u3046"),
    "katakana": (["ISO 2022 IR 13", "ISO 2022 IR 87"], "\uff94\uff8f\uff80\uff9e^\uff80\uff9b\uff73=\u5c71\u7530^\u592a\u90ce"),
    "korean": (["", "ISO 2022 IR 149"], "Hong^Gildong=\u6d2a^\u5409\u6d1e=\ud64d^\uae38\ub3d9"),
    "turkish": ("ISO_IR 148", "\u0130\u015f\u0131k^G\u00fcl"),
}


def rotated(rng):
    """The first two columns of a random rotation."""
    q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return q[:, 0], q[:, 1]


def volume(rng, shape):
    return rng.integers(0, 900, shape).astype(np.uint16)


def series(root):
    rng = np.random.default_rng(66)
    save = lambda name, sets, **how: make.save(root / "series" / name, sets, **how)
    planes = {
        "axial": make.AXIAL, "sagittal": make.SAGITTAL, "coronal": make.CORONAL, "oblique": make.oblique(make.AXIAL),
        "oblique_sagittal": make.oblique(make.SAGITTAL), "negated": ((-1, 0, 0), (0, -1, 0)), "upside_down": ((1, 0, 0), (0, -1, 0)),
        "mirrored": ((-1, 0, 0), (0, 1, 0)),
    }
    for name, directions in planes.items():
        save(name, make.slices(volume(rng, make.SHAPE), directions))
    save("reversed", list(make.slices(volume(rng, make.SHAPE), make.AXIAL))[::-1], reverse=True)
    save("implicit", make.slices(volume(rng, make.SHAPE), make.AXIAL, syntax=ImplicitVRLittleEndian))
    for k in range(16):
        shape = tuple(rng.integers(1, [8, 18, 18]))
        directions = rotated(rng)
        sets = make.slices(volume(rng, shape), directions, at=make.places(directions, shape[0]))
        save(f"random_{k:02}", sets)
    for k, directions in enumerate([make.AXIAL, make.oblique(make.CORONAL), rotated(rng)]):
        make.write(make.enhanced(volume(rng, make.SHAPE), directions), root / "series" / f"enhanced_{k}" / "object")
    backwards = make.enhanced(volume(rng, make.SHAPE), make.SAGITTAL)
    backwards.PerFrameFunctionalGroupsSequence = backwards.PerFrameFunctionalGroupsSequence[::-1]
    make.write(backwards, root / "series/enhanced_backwards/object")
    for name, (charset, text) in NAMES.items():
        save(name, make.slices(volume(rng, (2, 3, 3)), make.AXIAL, SpecificCharacterSet=charset, PatientName=text))
    sets = list(make.slices(volume(rng, make.SHAPE), make.AXIAL, PatientBirthDate="19700102", PatientSex="O", StudyID="7"))
    for ds in sets:
        ds.LossyImageCompression, ds.LossyImageCompressionRatio, ds.LossyImageCompressionMethod = "01", "9.5", "ISO_10918_1"
        ds.SeriesNumber, ds.TimezoneOffsetFromUTC, ds.PatientIdentityRemoved = str(2**31 - 5), "+0530", "YES"
        ds.DeidentificationMethod = "by hand"
    save("lossy", sets)
    save("no_frame_of_reference", make.slices(volume(rng, make.SHAPE), make.AXIAL, FrameOfReferenceUID=""))
    for name, missing in [("no_study", "StudyInstanceUID"), ("no_instance", "SOPInstanceUID")]:
        sets = list(make.slices(volume(rng, (2, 3, 3)), make.AXIAL))
        for k, ds in enumerate(sets):
            delattr(ds, missing)
            make.write(ds, root / "refused" / name / f"{k}.dcm")


def sources(folder):
    """The data sets of a series and the places of its images along the normal: (place, data set, number of the frame)."""
    images = []
    for path in folder.iterdir():
        ds = pydicom.dcmread(path)
        if "PerFrameFunctionalGroupsSequence" in ds:
            row, column = np.reshape(
                ds.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient, (2, 3))
            for number, frame in enumerate(ds.PerFrameFunctionalGroupsSequence, 1):
                place = np.dot(np.cross(row, column), frame.PlanePositionSequence[0].ImagePositionPatient)
                images.append((place, ds, number))
        else:
            row, column = np.reshape(ds.ImageOrientationPatient, (2, 3))
            images.append((np.dot(np.cross(row, column), ds.ImagePositionPatient), ds, None))
    return sorted(images, key=lambda image: image[0])


def attributes(case, labels, path, folder):
    seg, images = pydicom.dcmread(path), sources(folder)
    source = images[0][1]
    for name in ["PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyID", "StudyDate"]:
        if str(seg[name].value or "") != str(source.get(name) or ""):
            yield f"{name} is {seg[name].value!r}, not {source.get(name)!r}"
    for name in ["SpecificCharacterSet", "PatientIdentityRemoved", "DeidentificationMethod", "TimezoneOffsetFromUTC"]:
        if seg.get(name) != source.get(name):
            yield f"{name} is {seg.get(name)!r}, not {source.get(name)!r}"
    raw = lambda ds: pydicom.dcmread(ds.filename)._dict[0x00100010].value
    if raw(seg).strip() != raw(source).strip():
        yield f"the patient's name is {raw(seg)!r}, not {raw(source)!r}"
    if source.FrameOfReferenceUID and seg.FrameOfReferenceUID != source.FrameOfReferenceUID:
        yield "another frame of reference"
    if not seg.FrameOfReferenceUID or seg.Modality != "SEG" or seg.SegmentsOverlap != "NO":
        yield f"frame of reference {seg.FrameOfReferenceUID}, modality {seg.Modality}, overlap {seg.SegmentsOverlap}"
    if seg.SeriesInstanceUID == source.SeriesInstanceUID or seg.SeriesNumber == source.SeriesNumber:
        yield "the series is the source's"
    if seg.LossyImageCompression != source.get("LossyImageCompression", "00"):
        yield f"lossy {seg.LossyImageCompression}"
    if seg.get("LossyImageCompressionRatio") != source.get("LossyImageCompressionRatio"):
        yield f"ratio {seg.get('LossyImageCompressionRatio')}"
    if seg.file_meta.TransferSyntaxUID != ExplicitVRLittleEndian:
        yield f"transfer syntax {seg.file_meta.TransferSyntaxUID}"
    yield from references(seg, images)
    yield from frames(seg, labels, images)


def references(seg, images):
    expected = {(ds.SOPClassUID, ds.SOPInstanceUID) for _, ds, _ in images}
    [series] = seg.ReferencedSeriesSequence
    found = [(item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID) for item in series.ReferencedInstanceSequence]
    if set(found) != expected or len(found) != len(expected) or series.SeriesInstanceUID != images[0][1].SeriesInstanceUID:
        yield f"references {found}"


def frames(seg, labels, images):
    """Which frames there are, what they point to, and where they lie."""
    expected = [(s, k) for s in range(1, 256) for k in range(labels.shape[2]) if (labels[:, :, k] == s).any()] or [(1, 0)]
    used = sorted({k for _, k in expected})
    groups = seg.PerFrameFunctionalGroupsSequence
    if len(groups) != len(expected) or seg.NumberOfFrames != len(expected):
        yield f"{len(groups)} frames, not {len(expected)}"
        return
    for group, (segment, k) in zip(groups, expected):
        _, ds, number = images[k]
        position = ds.ImagePositionPatient if number is None else (
            ds.PerFrameFunctionalGroupsSequence[number - 1].PlanePositionSequence[0].ImagePositionPatient)
        [derivation] = group.DerivationImageSequence
        [source] = derivation.SourceImageSequence
        found = (
            group.SegmentIdentificationSequence[0].ReferencedSegmentNumber,
            source.ReferencedSOPInstanceUID, source.get("ReferencedFrameNumber"),
            group.PlanePositionSequence[0].ImagePositionPatient, list(group.FrameContentSequence[0].DimensionIndexValues),
        )
        if found != (segment, ds.SOPInstanceUID, number, position, [segment, used.index(k) + 1]):
            yield f"frame of segment {segment} in image {k}: {found}"


def with_highdicom(case, labels, path, folder):
    import highdicom

    seg, images = highdicom.seg.segread(path), sources(folder)
    how = {"combine_segments": True, "assert_missing_frames_are_empty": True}
    if images[0][2] is None:
        pixels = seg.get_pixels_by_source_instance([ds.SOPInstanceUID for _, ds, _ in images], **how)
    else:
        pixels = seg.get_pixels_by_source_frame(images[0][1].SOPInstanceUID, [number for *_, number in images], **how)
    # [slice, row, column] and rows from the last to the first
    if not np.array_equal(pixels[:, ::-1].transpose(2, 1, 0), labels.dataobj):
        yield "other voxels by source image"
    volume = seg.get_volume(combine_segments=True)
    yield from in_world(labels, volume.array, RAS @ volume.affine)
    colours = [segment.RecommendedDisplayCIELabValue for segment in seg.SegmentSequence]
    orange = highdicom.color.CIELabColor.from_rgb(0xE6, 0x9F, 0x00).value
    if np.abs(np.subtract(colours[0], orange)).max() > 1:
        yield f"colour {colours[0]}, not {orange}"


def with_dcmqi(case, labels, path, folder):
    with tempfile.TemporaryDirectory() as temporary:
        options = ["--inputDICOM", path, "--outputDirectory", temporary, "-t", "nii", "-p", "x"]
        program = Path(sys.executable).with_name("segimage2itkimage")
        done = subprocess.run([program, *options], capture_output=True, text=True)
        if done.returncode:
            yield f"segimage2itkimage: {done.stdout}{done.stderr}"
            return
        found = sorted(Path(temporary).glob("x-*.nii.gz"), key=lambda path: int(path.name[2:-7]))
        segments = len(pydicom.dcmread(path).SegmentSequence)
        if [int(path.name[2:-7]) for path in found] != list(range(1, segments + 1)):
            yield f"{[path.name for path in found]} of {segments} segments"
            return
        merged = None
        for segment, path in enumerate(found, 1):
            image = nib.load(path)
            voxels = np.asarray(image.dataobj)
            if merged is None:
                merged = np.zeros(voxels.shape, np.uint8)
            merged[voxels != 0] = segment
        yield from in_world(labels, merged, image.affine)


def in_world(labels, voxels, affine):
    """Differences of voxels on another grid with the same places; what lies outside of it must be background."""
    voxels = np.reshape(voxels, voxels.shape[:3])
    indices = np.indices(voxels.shape).reshape(3, -1)
    at = (np.linalg.inv(labels.affine) @ affine @ np.vstack([indices, np.ones(indices.shape[1])]))[:3]
    nearest = np.rint(at).astype(int)
    if np.abs(at - nearest).max() > 2e-3:
        yield f"voxels are {np.abs(at - nearest).max():.4f} voxels beside ours"
        return
    inside = ((nearest >= 0) & (nearest < np.reshape(labels.shape, (3, 1)))).all(0)
    if voxels.reshape(-1)[~inside].any():
        yield "labels outside of our grid"
    found = np.zeros(labels.shape, np.uint8)
    found[tuple(nearest[:, inside])] = voxels.reshape(-1)[inside]
    if not np.array_equal(found, labels.dataobj):
        yield f"{np.count_nonzero(found != labels.dataobj)} voxels differ in world coordinates"


def check(root, differences):
    found, paths = 0, sorted((root / "result").glob("*.seg.dcm"))
    for path in paths:
        case = path.name.removesuffix(".seg.dcm")
        labels = nib.load(path.with_name(f"{case}.nii.gz"))
        if differences is attributes:
            labels = np.asarray(labels.dataobj)
        for difference in differences(case, labels, path, root / "series" / case):
            print(f"{case}: {difference}")
            found += 1
    print(f"{len(paths)} segmentations, {found} differences")
    return 1 if found or not paths else 0


def is_installed(mode):
    try:
        __import__(mode)
    except ImportError:
        return False
    return True


def main(mode, root):
    if mode == "series":
        return series(root)
    if mode != "attributes" and not is_installed(mode):
        return NOT_INSTALLED
    return check(root, {"attributes": attributes, "highdicom": with_highdicom, "dcmqi": with_dcmqi}[mode])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
