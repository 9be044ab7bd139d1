"""Stores series and their segmentations in Orthanc through its REST interface, and compares what comes back.

    orthanc.py FOLDER

FOLDER is that of dicom_seg.py. Each segmentation must come back byte for byte, in the study of its series, with the voxels
that highdicom reads if it is installed. Prints every difference; exits with 1 if there is one, or with 77 if Orthanc is not
installed.
"""

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

import dicom_seg

PATIENCE_SECS = 30


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Orthanc:
    """A server of its own, only on this machine, with an empty storage; `receives`: it listens for C-STORE, too."""

    def __init__(self, program, folder, receives=False):
        self.port, self.dicom_port = free_port(), free_port()
        settings = {
            "StorageDirectory": str(folder / "storage"), "IndexDirectory": str(folder / "storage"), "HttpPort": self.port,
            "RemoteAccessAllowed": False, "AuthenticationEnabled": False, "Plugins": [],
            "DicomServerEnabled": receives, "DicomPort": self.dicom_port, "DicomAet": "ORTHANC", "DicomCheckCalledAet": True,
        }
        (folder / "orthanc.json").write_text(json.dumps(settings))
        self.log = folder / "log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen([program, folder / "orthanc.json"], stdout=log, stderr=log)

    def wait(self):
        for _ in range(10 * PATIENCE_SECS):
            if self.process.poll() is not None:
                sys.exit(f"Orthanc has ended: {self.log.read_text()}")
            try:
                return self.get("/system")
            except URLError:
                time.sleep(0.1)
        sys.exit("Orthanc does not answer")

    def get(self, path, body=None):
        with urlopen(Request(f"http://127.0.0.1:{self.port}{path}", data=body), timeout=PATIENCE_SECS) as answer:
            return answer.read()

    def store(self, path):
        return json.loads(self.get("/instances", path.read_bytes()))

    def stop(self):
        self.process.terminate()
        self.process.wait(PATIENCE_SECS)


def differences(orthanc, root, back):
    for path in sorted((root / "result").glob("*.seg.dcm")):
        case = path.name.removesuffix(".seg.dcm")
        sources = [orthanc.store(source) for source in (root / "series" / case).iterdir()]
        stored = orthanc.store(path)
        if stored["Status"] != "Success":
            yield f"{case}: {stored['Status']}"
            continue
        if {source["ParentStudy"] for source in sources} != {stored["ParentStudy"]}:
            yield f"{case}: another study than its series"
        if stored["ParentSeries"] in {source["ParentSeries"] for source in sources}:
            yield f"{case}: the series of the images"
        answer = orthanc.get(f"/instances/{stored['ID']}/file")
        if answer != path.read_bytes():
            yield f"{case}: {len(answer)} other bytes"
        (back / "result" / path.name).write_bytes(answer)
        shutil.copy(path.with_name(f"{case}.nii.gz"), back / "result")


def installed():
    return shutil.which("Orthanc") or shutil.which("/usr/sbin/Orthanc")


def main(root):
    program = installed()
    if program is None:
        return dicom_seg.NOT_INSTALLED
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "result").mkdir()
        (folder / "series").symlink_to(root.resolve() / "series")
        orthanc = Orthanc(program, folder)
        try:
            orthanc.wait()
            found = list(differences(orthanc, root, folder))
        finally:
            orthanc.stop()
        print("\n".join(found) or "Orthanc gives back the same")
        same = dicom_seg.main("highdicom", folder)
        return 1 if found or same not in (0, dicom_seg.NOT_INSTALLED) else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
