"""Compares two DICOM segmentations of the same images: same_segmentation.py A B.

Everything must be equal but what is new in every segmentation: its identifiers, and when it was made. Prints every
difference, and exits with 1 if there is one.
"""

import sys

import pydicom

NEW = {
    "SOPInstanceUID", "SeriesInstanceUID", "DimensionOrganizationUID", "SeriesDate", "SeriesTime", "ContentDate", "ContentTime",
    "InstanceCreationDate", "InstanceCreationTime",
}


def differences(a, b, at=""):
    for tag in sorted({*a.keys(), *b.keys()}):
        name = f"{at}{pydicom.datadict.keyword_for_tag(tag) or tag}"
        if tag not in a or tag not in b:
            yield f"{name} is only in one"
        elif a[tag].VR == "SQ":
            if len(a[tag].value) != len(b[tag].value):
                yield f"{name} has {len(a[tag].value)} and {len(b[tag].value)} items"
            for k, pair in enumerate(zip(a[tag].value, b[tag].value)):
                yield from differences(*pair, f"{name}[{k}].")
        elif name not in NEW and a[tag].keyword != "DimensionOrganizationUID" and a[tag].value != b[tag].value:
            yield f"{name}: {a[tag].repval} and {b[tag].repval}"


def main(a, b):
    a, b = pydicom.dcmread(a), pydicom.dcmread(b)
    assert a.SOPClassUID.name == "Segmentation Storage" and a.NumberOfFrames > 1, "nothing to compare"
    found = list(differences(a, b))
    if a.SOPInstanceUID == b.SOPInstanceUID or a.SeriesInstanceUID == b.SeriesInstanceUID:
        found.append("both have the same identifier")
    print("\n".join(found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
