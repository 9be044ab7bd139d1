#!/usr/bin/env python3
"""Series from real volumes, sent to a live run by senders of other authors: benches/senders.py --help.

    .spsam/venv/bin/python benches/senders.py --image .../hippocampus_003.nii.gz .spsam/sample/mni152_t1.nii.gz

Each volume is written as several DICOM series: axial, sagittal, oblique, with negated cosines, reversed, shuffled, and as one enhanced
object. They go to `dataflows/stream.yml` by storescu and dcmsend of DCMTK, pynetdicom, and Orthanc (those that are installed), two
senders at a time. The label map of every series must be that of `spsam infer` for the files of the series, voxel for voxel. A table
says what was found; the exit status is 1 if anything differs. Volumes are cut to at most `--size` voxels along each axis.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.request import Request, urlopen

import nibabel
import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian, MRImageStorage

from dataflow import PROJECT, table
from stream import SPSAM, Stream

sys.path.insert(0, str(PROJECT / "tests/python"))
import make_dicom  # noqa: E402
import orthanc  # noqa: E402

# name: axis of the slices, angles about x and z (degrees), axes that are stored the other way round, order of the files
KINDS = {
    "axial": (2, (0, 0), (), "given"),
    "sagittal": (0, (0, 0), (), "given"),
    "oblique": (2, (20, -15), (), "given"),
    "negated": (2, (0, 0), (0, 1), "given"),
    "reversed": (2, (0, 0), (), "reversed"),
    "shuffled": (2, (12, 0), (2,), "shuffled"),
    "enhanced": (2, (-8, 5), (), "given"),
}


def main() -> None:
    options = parse()
    with tempfile.TemporaryDirectory(prefix="spsam-senders-", dir=options.folder) as folder:
        folder = Path(folder)
        series = write_series(options, folder / "series")
        senders = available(folder)
        plan = [(number, name, list(senders)[number % len(senders)]) for number, name in series.items()]
        settings = {"SPSAM_MODEL": str(options.model.resolve()), "SPSAM_SERIES": str(len(series)), "SPSAM_SERIES_IDLE_SECS": "5"}
        with Stream(folder / "live", settings) as stream, ThreadPoolExecutor(2) as two:
            stream.wait_until_ready()
            try:
                list(two.map(lambda one: senders[one[2]](stream.port, folder / "series" / one[1]), plan))
                if stream.finish() != 0:
                    raise SystemExit(f"the live run failed:\n{stream.log()[-3000:]}")
            finally:
                for stop in STOPS:
                    stop()
            output = folder / "offline"
            subprocess.run([SPSAM, "infer", "--model", options.model, "--input", folder / "series", "--output", output], check=True,
                           stdout=subprocess.DEVNULL)
            rows = [[name, sender, *compare(stream.output, output, number, name)] for number, name, sender in plan]
    print(table(["series", "sender", "voxels", "labelled", "labels as offline"], rows))
    if any(row[-1] != "yes" for row in rows):
        sys.exit(1)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", type=Path, nargs="+", required=True, help="NIfTI volumes")
    parser.add_argument("--model", type=Path, default=PROJECT / "models/hippocampus", help="model bundle (default: hippocampus)")
    parser.add_argument("--size", type=int, default=64, help="most voxels along an axis (default 64)")
    parser.add_argument("--folder", type=Path, help="where to put temporary files (default: the system's)")
    return parser.parse_args()


def write_series(options: argparse.Namespace, folder: Path) -> dict[int, str]:
    """Writes all series; their names by series number."""
    found = {}
    for path in options.image:
        image = nibabel.as_closest_canonical(nibabel.load(path))
        voxels, affine = cut(np.asarray(image.dataobj), image.affine, options.size)
        scale = 4095 / max(float(voxels.max()), 1)  # whole numbers of 12 bits
        voxels = np.clip(np.rint(voxels * scale), 0, 4095).astype(np.uint16)
        for kind, how in KINDS.items():
            number, name = 101 + len(found), f"{path.name.split('.')[0]}_{kind}"
            sets = data_sets(voxels, affine, number, kind == "enhanced", *how)
            (folder / name).mkdir(parents=True)
            for index, ds in enumerate(sets):
                make_dicom.write(ds, folder / name / f"{index:03}.dcm")
            found[number] = name
    return found


def cut(voxels: np.ndarray, affine: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The middle of a volume."""
    start = [max(0, (side - size) // 2) for side in voxels.shape[:3]]
    affine = affine.copy()
    affine[:3, 3] += affine[:3, :3] @ start
    part = tuple(slice(first, first + size) for first in start)
    return voxels[part], affine


def data_sets(voxels, affine, number: int, is_enhanced: bool, axis: int, angles, flipped, order: str) -> list[Dataset]:
    """The series, with geometry by PS3.3 C.7.6.2.1.1."""
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    lps[:3] = rotation(*angles) @ lps[:3]
    for one in flipped:
        voxels = np.flip(voxels, one)
        lps[:3, 3] += lps[:3, one] * (voxels.shape[one] - 1)
        lps[:3, one] *= -1
    columns, rows = (other for other in range(3) if other != axis)  # the axes along which a row and a column go
    planes = voxels.transpose(axis, rows, columns)
    lengths = np.linalg.norm(lps[:3, :3], axis=0)
    directions = [lps[:3, columns] / lengths[columns], lps[:3, rows] / lengths[rows]]
    places = [lps[:3, 3] + lps[:3, axis] * index for index in range(len(planes))]
    shared = {"SeriesNumber": number, "PixelSpacing": make_dicom.text((lengths[rows], lengths[columns]))}
    if is_enhanced:
        return [enhanced(planes, directions, places, number, (lengths[rows], lengths[columns]), lengths[axis])]
    made = list(make_dicom.slices(planes, directions, MRImageStorage, at=places, BitsStored=12, HighBit=11, **shared))
    if order == "reversed":
        made.reverse()
    elif order == "shuffled":
        made = [made[index] for index in np.random.default_rng(number).permutation(len(made))]
    return made


def rotation(about_x: float, about_z: float) -> np.ndarray:
    a, b = np.radians([about_x, about_z])
    x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    return z @ x


def enhanced(planes, directions, places, number: int, spacing, step: float) -> Dataset:
    def item(**values):
        one = Dataset()
        for name, value in values.items():
            setattr(one, name, value)
        return [one]

    ds = make_dicom.base(EnhancedMRImageStorage, make_dicom.generate_uid(), ExplicitVRLittleEndian, False)
    ds.NumberOfFrames, ds.Rows, ds.Columns = planes.shape
    ds.SeriesNumber, ds.InstanceNumber = number, 1
    shared = Dataset()
    shared.PixelMeasuresSequence = item(PixelSpacing=make_dicom.text(spacing), SliceThickness=make_dicom.text([step])[0])
    shared.PlaneOrientationSequence = item(ImageOrientationPatient=make_dicom.text(np.ravel(directions)))
    ds.SharedFunctionalGroupsSequence = [shared]
    ds.PerFrameFunctionalGroupsSequence = []
    for index, place in enumerate(places):
        frame = Dataset()
        frame.PlanePositionSequence = item(ImagePositionPatient=make_dicom.text(place))
        frame.FrameContentSequence = item(StackID="1", InStackPositionNumber=index + 1, DimensionIndexValues=[1, index + 1])
        ds.PerFrameFunctionalGroupsSequence.append(frame)
    ds.PixelData = np.ascontiguousarray(planes).tobytes()
    return ds


STOPS: list = []


def available(folder: Path) -> dict:
    """Programs that send a folder to a port."""
    def dcmtk(program: str, options: tuple):
        # pynetdicom has programs with the same names
        path = next((path for path in (Path(one) / program for one in os.environ["PATH"].split(":")) if is_of_dcmtk(path)), None)
        command = lambda port, series: [path, "-aec", "SPSAM", *options, "127.0.0.1", str(port), *sorted(series.iterdir())]
        return path and (lambda port, series: subprocess.run(command(port, series), check=True))

    def pynetdicom(port: int, series: Path) -> None:
        command = [sys.executable, "-m", "pynetdicom", "storescu", "-cx", "-aec", "SPSAM", "127.0.0.1", str(port), series]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)

    found = {"storescu": dcmtk("storescu", ("-R",)), "dcmsend": dcmtk("dcmsend", ()), "pynetdicom": pynetdicom}
    found = {name: sender for name, sender in found.items() if sender}
    if program := orthanc.installed():
        (folder / "orthanc").mkdir()
        archive = orthanc.Orthanc(program, folder / "orthanc")
        STOPS.append(archive.stop)
        archive.wait()

        def by_orthanc(port: int, series: Path) -> None:
            receiver = json.dumps({"AET": "SPSAM", "Host": "127.0.0.1", "Port": port}).encode()
            urlopen(Request(f"http://127.0.0.1:{archive.port}/modalities/live", data=receiver, method="PUT"))
            stored = [archive.store(path)["ID"] for path in sorted(series.iterdir())]
            archive.get("/modalities/live/store", json.dumps(stored).encode())

        found["Orthanc"] = by_orthanc
    print(f"senders: {', '.join(found)}", file=sys.stderr)
    return found


def is_of_dcmtk(path: Path) -> bool:
    return path.is_file() and "dcmtk" in subprocess.run([path, "--version"], capture_output=True, text=True).stdout


def compare(live: Path, offline: Path, number: int, name: str) -> list[str]:
    """Voxels, those with a label, and whether both label maps have the same ones at the same places."""
    found = list(live.glob(f"MR_{number}_*.nii.gz"))
    expected = offline / f"{name}.nii.gz"
    if len(found) != 1 or not expected.exists():
        return ["", "", f"NO: {len(found)} label maps"]
    one, other = nibabel.load(found[0]), nibabel.load(expected)
    labels = np.asarray(one.dataobj)
    is_same = np.array_equal(labels, np.asarray(other.dataobj)) and np.allclose(one.affine, other.affine, atol=1e-4)
    return [str(labels.size), str(int((labels > 0).sum())), "yes" if is_same else "NO"]


if __name__ == "__main__":
    main()
