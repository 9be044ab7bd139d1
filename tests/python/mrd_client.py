"""A scanner that streams a volume by MRD with the reference library, and receives the masks on the same connection.

    mrd_client.py send PORT IMAGE MASKS [--rate R] [--kind slices|volume|float] [--dummy]
    mrd_client.py check IMAGE MASKS OUTPUT

`send` writes the masks that came back to MASKS (npz), once their headers have been compared with those of the images. `check`
compares them with the label map in the folder OUTPUT, voxel by voxel. Exits with 77 if ismrmrd is not installed.
"""

import argparse
import socket
import sys
import threading
import time
from pathlib import Path

import nibabel as nib
import numpy as np

try:
    import ismrmrd
    from ismrmrd import xsd
    from ismrmrd.serialization import ConfigFile, ProtocolDeserializer, ProtocolSerializer
except ImportError:
    sys.exit(77)

SERIES = 5
COPIED = ["matrix_size", "field_of_view", "position", "read_dir", "phase_dir", "slice_dir", "slice", "contrast", "phase",
          "repetition", "set", "image_index", "measurement_uid", "channels"]  # fmt: skip


def describe(slices):
    """The header of the scan, with a patient whom nobody may see."""
    limits = xsd.encodingLimitsType(slice=xsd.limitType(minimum=0, maximum=slices - 1, center=slices // 2))
    space = xsd.encodingSpaceType(
        matrixSize=xsd.matrixSizeType(x=64, y=64, z=1), fieldOfView_mm=xsd.fieldOfViewMm(x=64, y=64, z=2.5)
    )
    encoding = xsd.encodingType(
        encodedSpace=space, reconSpace=space, encodingLimits=limits, trajectory=xsd.trajectoryType.CARTESIAN
    )
    return xsd.ismrmrdHeader(
        subjectInformation=xsd.subjectInformationType(patientName="Secret^Patient"),
        measurementInformation=xsd.measurementInformationType(patientPosition=xsd.patientPositionType.HFS),
        experimentalConditions=xsd.experimentalConditionsType(H1resonanceFrequency_Hz=63500000),
        encoding=[encoding],
    )


def images(path, kind):
    """The volume as MRD images: one a slice, or one of all slices. `position` is their centre."""
    volume = nib.load(path)
    lps = np.diag([-1, -1, 1, 1]) @ volume.affine
    ways = lps[:3, :3]
    sizes = np.linalg.norm(ways, axis=0)
    voxels = np.asarray(volume.dataobj).transpose(2, 1, 0)
    voxels = voxels.astype(np.float32 if kind == "float" else np.int16)
    parts = [(0, len(voxels))] if kind == "volume" else [(k, k + 1) for k in range(len(voxels))]
    for index, (first, end) in enumerate(parts):
        data = voxels[first:end]
        shape = np.array(data.shape[::-1])
        middle = (shape - 1) / 2 + [0, 0, first]
        image = ismrmrd.Image.from_array(data, transpose=False)
        image.field_of_view = tuple(shape * sizes)
        image.position = tuple(lps[:3, :3] @ middle + lps[:3, 3])
        image.read_dir, image.phase_dir, image.slice_dir = (tuple(ways[:, axis] / sizes[axis]) for axis in range(3))
        image.slice, image.image_index, image.image_series_index = index, index + 1, SERIES
        image.measurement_uid, image.image_type = 11, ismrmrd.IMTYPE_MAGNITUDE
        image.meta = ismrmrd.Meta({"SeriesDescription": "head <t1>", "IceMiniHead": "QUJD"})
        yield image


def receive(stream, found):
    for message in ProtocolDeserializer(stream).deserialize():
        found.append(message)


def send(arguments):
    sent = list(images(arguments.image, arguments.kind))
    connection = socket.create_connection(("127.0.0.1", arguments.port))
    stream, found = connection.makefile("rwb"), []
    receiver = threading.Thread(target=receive, args=(stream, found))
    serializer = ProtocolSerializer(stream)
    serializer.serialize(ConfigFile("openrecon"))
    if arguments.dummy:
        text = b"Dummy XML header"
        stream.write(b"\x03\x00" + len(text).to_bytes(4, "little") + text)
    else:
        serializer.serialize(describe(len(sent)))
    serializer.serialize('{"parameters": {"config": "openrecon"}}')
    receiver.start()
    for image in sent:
        serializer.serialize(image)
        stream.flush()
        time.sleep(1 / arguments.rate)
    serializer.close()
    receiver.join()
    texts = [message for message in found if isinstance(message, str)]
    assert not texts, texts
    masks = sorted(found, key=lambda message: message.image_index)
    assert len(masks) == len(sent), f"{len(masks)} masks of {len(sent)} images"
    for mask, image in zip(masks, sent):
        for name in COPIED:
            values = [np.array(getattr(message, name)) for message in (mask, image)]
            assert np.array_equal(*values), (name, *values)
        assert mask.data.dtype == np.uint16 and mask.image_series_index == SERIES + 100
        assert mask.meta["DataRole"] == "Segmentation" and mask.meta["Keep_image_geometry"] == "1", mask.meta
        assert mask.meta["SeriesDescription"] == "head <t1> segmentation" and mask.meta["IceMiniHead"] == "QUJD"
    np.savez(arguments.masks, masks=np.concatenate([mask.data[0] for mask in masks]))
    print(f"{len(masks)} masks came back")


def check(arguments):
    """Each voxel of the masks has the label that lies at its place in the world."""
    masks = np.load(arguments.masks)["masks"].transpose(2, 1, 0)
    (path,) = arguments.output.glob("*.nii.gz")
    labels, image = nib.load(path), nib.load(arguments.image)
    assert masks.shape == image.shape
    index_of = np.linalg.inv(labels.affine) @ image.affine
    places = np.indices(masks.shape).reshape(3, -1)
    found = index_of[:3, :3] @ places + index_of[:3, 3:]
    error = np.abs(found - found.round()).max()
    assert error < 1e-3, f"voxels lie {error} voxels apart"
    expected = np.asarray(labels.dataobj)[tuple(found.round().astype(int))]
    assert np.array_equal(expected, masks.reshape(-1)), "masks and label map differ"
    assert masks.max() > 0, "nothing to compare"


def main():
    parser = argparse.ArgumentParser()
    modes = parser.add_subparsers(required=True)
    mode = modes.add_parser("send")
    mode.add_argument("port", type=int)
    mode.add_argument("image", type=Path)
    mode.add_argument("masks", type=Path)
    mode.add_argument("--rate", type=float, default=5)
    mode.add_argument("--kind", default="slices")
    mode.add_argument("--dummy", action="store_true")
    mode.set_defaults(run=send)
    mode = modes.add_parser("check")
    for name in ("image", "masks", "output"):
        mode.add_argument(name, type=Path)
    mode.set_defaults(run=check)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
