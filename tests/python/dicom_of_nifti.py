"""Writes the slices of a NIfTI volume as an MR series with shuffled names, and what dcm2niix makes of it, if it is
installed: dicom_of_nifti.py IMAGE SERIES CONVERTED."""

import sys
from pathlib import Path

import make_dicom
import nibabel as nib
import numpy as np


def main(image, series, converted):
    volume = nib.load(image)
    lps = np.diag([-1, -1, 1, 1]) @ volume.affine
    across, down = (lps[:3, axis] / np.linalg.norm(lps[:3, axis]) for axis in (0, 1))
    voxels = np.asarray(volume.dataobj).transpose(2, 1, 0).round().astype(np.int16)
    at = [(lps @ [0, 0, k, 1])[:3] for k in range(len(voxels))]
    spacing = make_dicom.text([np.linalg.norm(lps[:3, axis]) for axis in (1, 0)])
    make_dicom.save(series, make_dicom.slices(voxels, (across, down), at=at, PixelSpacing=spacing))
    make_dicom.convert(series, converted)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
