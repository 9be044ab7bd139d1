"""Makes a DICOM series in every transfer syntax for which an encoder is at hand: transfer_syntaxes.py FOLDER.

FOLDER/lossless/<syntax>/ and FOLDER/lossy/<syntax>/ have the series as they are sent, FOLDER/truth/<syntax>/ the same
uncompressed: what went in, or, for lossy syntaxes, what DCMTK or OpenJPEG makes of it. Encoders are those of DCMTK, and OpenJPEG
in Pillow.
"""

import io
import subprocess
import sys
from pathlib import Path

import make_dicom
import numpy as np
import pydicom
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000, JPEG2000Lossless

SHAPE = (4, 24, 20)
BY_DCMTK = {
    "implicit": ["dcmconv", "+ti"],
    "explicit": ["dcmconv", "+te"],
    "big_endian": ["dcmconv", "+tb"],
    "rle": ["dcmcrle"],
    "jpeg_lossless": ["dcmcjpeg", "+el"],
    "jpeg_lossless_sv1": ["dcmcjpeg", "+e1"],
    "jpeg_baseline": ["dcmcjpeg", "+eb"],
    "jpeg_extended": ["dcmcjpeg", "+ee"],
}
# Extended JPEG with 12 bits is refused.
EIGHT_BITS = {"jpeg_baseline", "jpeg_extended"}
LOSSY = {"jpeg_baseline", "jpeg_extended", "jpeg2000"}


def smooth(bits):
    """Slices that a lossy encoder does not change much, with values up to the largest."""
    z, y, x = np.mgrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    waves = 0.5 + 0.3 * np.sin(y / 5 + z) + 0.2 * np.cos(x / 4)
    return np.rint(waves * (2**bits - 1)).astype(np.uint8 if bits == 8 else np.uint16)


def native(folder, bits):
    """An uncompressed series; the paths of its files."""
    paths = []
    for index, ds in enumerate(make_dicom.slices(smooth(bits), make_dicom.AXIAL, at=make_dicom.places(make_dicom.AXIAL, SHAPE[0]))):
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8 if bits == 8 else 16, bits, bits - 1
        ds["PixelData"].VR = "OB" if bits == 8 else "OW"
        paths.append(folder / f"{index}.dcm")
        make_dicom.write(ds, paths[-1])
    return paths


def openjpeg(path, to, truth, lossy):
    ds = pydicom.dcmread(path)
    buffer = io.BytesIO()
    how = {"irreversible": True, "quality_mode": "rates", "quality_layers": [3]} if lossy else {"irreversible": False}
    Image.fromarray(ds.pixel_array).save(buffer, "JPEG2000", no_jp2=True, **how)
    ds.PixelData = encapsulate([buffer.getvalue()])
    ds["PixelData"].is_undefined_length = True
    ds.file_meta.TransferSyntaxUID = JPEG2000 if lossy else JPEG2000Lossless
    make_dicom.write(ds, to)
    if lossy:
        ds = pydicom.dcmread(path)
        decoded = np.asarray(Image.open(io.BytesIO(buffer.getvalue()))).astype(np.uint16)
        ds.PixelData = decoded.tobytes()
        make_dicom.write(ds, truth)


def main(root):
    for syntax in [*BY_DCMTK, "jpeg2000_lossless", "jpeg2000"]:
        lossy = syntax in LOSSY
        truth = root / "truth" / syntax
        sent = root / ("lossy" if lossy else "lossless") / syntax
        sent.mkdir(parents=True)
        for path in native(truth, 8 if syntax in EIGHT_BITS else 12):
            to = sent / path.name
            if syntax in BY_DCMTK:
                subprocess.run([*BY_DCMTK[syntax], *(["+un"] if "dcmcjpeg" in BY_DCMTK[syntax] else []), path, to], check=True)
                if lossy:
                    subprocess.run(["dcmdjpeg", to, path], check=True)
            else:
                openjpeg(path, to, path, lossy)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
