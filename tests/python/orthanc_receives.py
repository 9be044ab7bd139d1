"""Sends a volume to Orthanc with `spsam send`, and compares what is stored there with the volume.

    orthanc_receives.py SPSAM VOLUME

VOLUME is a NIfTI file of integers with its slices along the third axis. Exits with 77 if Orthanc is not installed.
"""

import json
import subprocess
import sys
import tempfile
from io import BytesIO
from pathlib import Path

import dicom_seg
import nibabel as nib
import numpy as np
import pydicom

from orthanc import Orthanc, installed


def main(spsam, path):
    program = installed()
    if program is None:
        return dicom_seg.NOT_INSTALLED
    with tempfile.TemporaryDirectory() as folder:
        orthanc = Orthanc(program, Path(folder), receives=True)
        try:
            orthanc.wait()
            to = f"127.0.0.1:{orthanc.dicom_port}"
            subprocess.run([spsam, "send", path, "--to", to, "--aec", "ORTHANC", "--rate", "0", "--wait", "30"], check=True)
            other = subprocess.run([spsam, "send", path, "--to", to, "--aec", "OTHER", "--wait", "30"], capture_output=True, text=True)
            assert other.returncode == 1 and "rejects the association" in other.stderr, other.stderr
            assert len(json.loads(orthanc.get("/series"))) == 1
            stored = json.loads(orthanc.get("/instances"))
            images = [pydicom.dcmread(BytesIO(orthanc.get(f"/instances/{name}/file"))) for name in stored]
        finally:
            orthanc.stop()
    images.sort(key=lambda image: image.InstanceNumber)
    found = np.stack([image.pixel_array * image.RescaleSlope + image.RescaleIntercept for image in images])
    expected = np.asarray(nib.load(path).dataobj).T
    assert np.array_equal(found, expected), f"{found.shape}, {expected.shape}"
    print(f"Orthanc has the {len(images)} images of {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
