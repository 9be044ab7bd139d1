#!/usr/bin/env python3
"""Attacks on the receiver of a live run, one after the other: benches/hostile.py --help.

    .spsam/venv/bin/python benches/hostile.py --image .../hippocampus_003.nii.gz

After each attack a series is sent. The run passes if the scanner source is still the same process, its memory has stayed below a
bound, and the label map of the series is right. A table says what the attacker was told, and how far memory rose meanwhile. The exit
status is 1 if an attack has changed anything. As root it also fills the disk of the spool, on a file system of its own.
"""

import argparse
import contextlib
import gzip
import os
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pydicom
import pynetdicom
from pydicom.encaps import encapsulate
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless, MRImageStorage, generate_uid

from dataflow import PROJECT, fields, table
from stream import Stream

INSTANCE_MB = 64
IDLE_SECS = 5
MOST_MB = 512  # of the scanner source: its spool writes to disk


class Target:
    """The receiver, and the good series that is sent to it."""

    def __init__(self, stream: Stream, good: Path):
        self.stream, self.good = stream, good
        self.node = stream.nodes()["scanner-source"]
        self.expected: bytes | None = None
        self.maps: set[Path] = set()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.stream.port), timeout=30)

    def associate(self, called: str = "SPSAM", syntaxes=(ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless)):
        entity = pynetdicom.AE("ATTACKER")
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 30
        entity.add_requested_context("1.2.840.10008.1.1")
        for syntax in syntaxes:
            entity.add_requested_context(MRImageStorage, syntax)
        return entity.associate("127.0.0.1", self.stream.port, ae_title=called)

    def store(self, file: Path) -> str:
        """Sends a file as it is; what the receiver says."""
        association = self.associate()
        if not association.is_established:
            return "no association"
        try:
            answer = association.send_c_store(file)
            return f"status {answer.Status:04X}" if "Status" in answer else "aborted"
        except (ValueError, RuntimeError) as error:
            return str(error)
        finally:
            association.release()

    def reset_peak(self) -> None:
        Path(f"/proc/{self.node}/clear_refs").write_text("5")

    def memory(self) -> dict[str, int]:
        return fields(f"/proc/{self.node}/status")

    def next_series_is_right(self) -> bool:
        for _ in range(10):  # while it is full, it says so; scanners try again
            if self.stream.send(self.good, "--axis", "axial", "--rate", "0", stderr=subprocess.DEVNULL).wait() == 0:
                break
            time.sleep(2)
        until = time.monotonic() + 120
        while not (new := set(self.stream.output.glob("*.nii.gz")) - self.maps):
            if time.monotonic() > until:
                return False
            time.sleep(0.1)
        time.sleep(0.2)
        self.maps |= new
        labels = {gzip.decompress(path.read_bytes()) for path in new}
        self.expected = self.expected or labels.copy().pop()
        return len(new) == 1 and labels == {self.expected}


def main() -> None:
    options = parse()
    pynetdicom._config.STORE_SEND_CHUNKED_DATASET = True  # files as they are, not parsed
    with tempfile.TemporaryDirectory(prefix="spsam-hostile-", dir=options.folder) as folder, contextlib.ExitStack() as stack:
        folder = Path(folder)
        settings = {
            "SPSAM_MODEL": str(options.model.resolve()), "SPSAM_MIRROR": "0", "SPSAM_SERIES_IDLE_SECS": "3",
            "SPSAM_MAX_INSTANCE_MB": str(INSTANCE_MB), "SPSAM_ASSOCIATION_IDLE_SECS": str(IDLE_SECS),
        }
        spool = folder / "spool"
        spool.mkdir()
        if os.geteuid() == 0:
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256m", "spool", spool], check=True)
            stack.callback(subprocess.run, ["umount", "-l", spool])
        stream = stack.enter_context(Stream(folder / "run", settings | {"SPSAM_SPOOL": str(spool)}))
        stream.wait_until_ready()
        target = Target(stream, options.image)
        if not target.next_series_is_right():
            raise SystemExit("the first series was not segmented")
        made = next(path for path in spool.rglob("*.dcm"))
        rows = [row(target, name, lambda attack=attack: attack(target, made, folder)) for name, attack in ATTACKS.items()]
        if os.geteuid() == 0:
            rows.append(row(target, "disk full", lambda: disk_full(target, made, spool)))
        else:
            print("disk full: not tried; it needs root", file=sys.stderr)
    print(table(["attack", "what the attacker was told", "peak, MB", "rise, MB", "same process", "next series right"], rows))
    if any(cell.startswith("NO") for line in rows for cell in line):
        sys.exit(1)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", type=Path, required=True, help="NIfTI volume of the good series, such as hippocampus_003.nii.gz")
    parser.add_argument("--model", type=Path, default=PROJECT / "models/hippocampus", help="model bundle (default: hippocampus)")
    parser.add_argument("--folder", type=Path, help="where to put temporary files (default: the system's)")
    return parser.parse_args()


def row(target: Target, name: str, attack) -> list[str]:
    print(f"{name} ...", file=sys.stderr)
    target.reset_peak()
    before = target.memory()["VmRSS"]
    told = attack()
    is_right = target.next_series_is_right()
    is_same = target.stream.nodes().get("scanner-source") == target.node
    if not is_same:
        raise SystemExit(f"{name}: the scanner source has ended:\n{target.stream.log()[-3000:]}")
    peak = target.memory()["VmHWM"]
    is_small = peak < MOST_MB * 1e6
    size = f"{peak / 1e6:.0f}" if is_small else f"NO: {peak / 1e6:.0f}"
    return [name, told, size, f"{max(peak - before, 0) / 1e6:.0f}", "yes", "yes" if is_right else "NO"]


def pour(connection: socket.socket, chunk: bytes, most: int) -> str:
    """Sends until the receiver closes, at most so many bytes."""
    sent = 0
    try:
        while sent < most:
            connection.sendall(chunk)
            sent += len(chunk)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass
    except OSError:
        pass
    finally:
        connection.close()
    return f"closed after {sent >> 20} MB"


def garbage(target: Target, *_) -> str:
    return pour(target.connect(), os.urandom(1 << 20), 16 << 20)


def oversized(target: Target, *_) -> str:
    connection = target.connect()
    connection.sendall(b"\x01\0" + struct.pack(">I", 0xFFFFFFFF))
    return pour(connection, bytes(1 << 20), 1 << 30)


def endless_pdu(target: Target, *_) -> str:
    return within(target, b"\x04\0" + struct.pack(">I", 0xFFFFFFF0), bytes(1 << 20))


def endless_instance(target: Target, made: Path, _) -> str:
    """A data set that never ends, in PDUs of the usual size."""
    association = target.associate()
    context = next(one for one in association.accepted_contexts if one.abstract_syntax == MRImageStorage)
    command = store_command()
    fragment = bytes(16 << 10)
    pdu = lambda flags, body: b"\x04\0" + struct.pack(">IIBB", len(body) + 6, len(body) + 2, context.context_id, flags) + body
    connection = association.dul.socket.socket
    connection.sendall(pdu(3, command))
    return pour(connection, pdu(0, fragment) * 64, 1 << 30)


def within(target: Target, start: bytes, chunk: bytes) -> str:
    association = target.associate()
    connection = association.dul.socket.socket
    with contextlib.suppress(OSError):
        connection.sendall(start)
    return pour(connection, chunk, 1 << 30)


def store_command() -> bytes:
    uid = lambda text: text.encode() + b"\0" * (len(text) % 2)
    element = lambda tag, value: struct.pack("<HHI", 0, tag, len(value)) + value
    body = b"".join([
        element(0x0002, uid(MRImageStorage)), element(0x0100, struct.pack("<H", 1)), element(0x0110, struct.pack("<H", 1)),
        element(0x0700, struct.pack("<H", 0)), element(0x0800, struct.pack("<H", 1)), element(0x1000, uid("1.2.3.4")),
    ])
    return element(0x0000, struct.pack("<I", len(body))) + body


def slow_loris(target: Target, *_) -> str:
    connections = [target.connect() for _ in range(20)]
    request = b"\x01\0" + struct.pack(">I", 200) + bytes(200)
    closed = 0
    for index in range(3 * IDLE_SECS):
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.sendall(request[index : index + 1])
        time.sleep(1)
    for connection in connections:
        connection.settimeout(0.1)
        try:
            closed += connection.recv(64) == b""
        except TimeoutError:
            pass
        except OSError:
            closed += 1
        connection.close()
    return f"{closed} of 20 closed within {3 * IDLE_SECS} s"


def half_open(target: Target, *_) -> str:
    connections = [target.connect() for _ in range(40)]
    time.sleep(2 * IDLE_SECS)
    closed = 0
    for connection in connections:
        connection.settimeout(0.1)
        with contextlib.suppress(TimeoutError):
            try:
                while connection.recv(64):
                    pass
                closed += 1
            except ConnectionError:
                closed += 1
        connection.close()
    return f"{closed} of 40 closed within {2 * IDLE_SECS} s"


def wrong_title(target: Target, *_) -> str:
    association = target.associate("OTHER")
    return "rejected" if association.is_rejected else "NO: accepted"


def tiny(target: Target, *_) -> str:
    request = pynetdicom.AE("TINY")
    request.add_requested_context("1.2.840.10008.1.1")
    done = 0
    for _ in range(1000):
        association = request.associate("127.0.0.1", target.stream.port, ae_title="SPSAM")
        done += association.is_established
        association.release()
    return f"{done} of 1000 served"


def file_of(made: Path, folder: Path, change=None, tail: bytes | None = None, syntax: str = ExplicitVRLittleEndian) -> Path:
    """The image as a new instance of a new series, changed, or with other bytes behind its meta information."""
    ds = pydicom.dcmread(made)
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    ds.SeriesInstanceUID = generate_uid()
    ds.file_meta.TransferSyntaxUID = syntax
    if change:
        change(ds)
    path = folder / "attack.dcm"
    if tail is None:
        ds.save_as(path, enforce_file_format=True)
    else:
        with path.open("wb") as file:
            file.write(bytes(128) + b"DICM")
            write_file_meta_info(file, ds.file_meta)
            file.write(tail)
    return path


def truncated(target: Target, made: Path, folder: Path) -> str:
    def change(ds):
        ds.PixelData = ds.PixelData[: len(ds.PixelData) // 2]
    return target.store(file_of(made, folder, change))


def nested(target: Target, made: Path, folder: Path) -> str:
    level = struct.pack("<HH2sHI", 0x0008, 0x1115, b"SQ", 0, 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    return target.store(file_of(made, folder, tail=level * 1_000_000))


def four_gigabytes(target: Target, made: Path, folder: Path) -> str:
    header = lambda group, element, length: struct.pack("<HHI", group, element, length)
    tail = header(0x0008, 0x0060, 2) + b"MR" + header(0x0010, 0x0010, 0xFFFFFFF0) + b"A" * 100
    return target.store(file_of(made, folder, tail=tail, syntax=ImplicitVRLittleEndian))


def lying_size(target: Target, made: Path, folder: Path) -> str:
    def change(ds):
        ds.Rows = ds.Columns = 30000
    return target.store(file_of(made, folder, change))


def lying_jpeg_2000(target: Target, made: Path, folder: Path) -> str:
    """A code stream of 30000 x 30000 pixels in an image of a few."""
    def change(ds):
        size = struct.pack(">HHIIIIIIIIH", 41, 0, 30000, 30000, 0, 0, 30000, 30000, 0, 0, 1) + b"\x0b\x01\x01"
        ds.PixelData = encapsulate([b"\xff\x4f\xff\x51" + size + bytes(200)])
        ds["PixelData"].is_undefined_length = True
    return target.store(file_of(made, folder, change, syntax=JPEG2000Lossless)) + " (its series fails when it is decoded)"


def disk_full(target: Target, made: Path, spool: Path) -> str:
    filler = spool / "filler"
    with contextlib.suppress(OSError), filler.open("wb") as file:
        while True:
            file.write(bytes(1 << 16))
    try:
        return target.store(file_of(made, target.stream.folder))
    finally:
        filler.unlink()


ATTACKS = {
    "garbage": garbage,
    "association request of 4 GB": oversized,
    "endless PDU": endless_pdu,
    "endless instance": endless_instance,
    "slow loris, 20 connections": slow_loris,
    "40 half-open associations": half_open,
    "wrong AE title": wrong_title,
    "1000 tiny associations": tiny,
    "truncated pixel data": truncated,
    "sequences nested a million deep": nested,
    "declared length of 4 GB": four_gigabytes,
    "rows and columns that lie": lying_size,
    "JPEG 2000 whose size lies": lying_jpeg_2000,
}

if __name__ == "__main__":
    main()
