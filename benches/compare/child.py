"""Runs one form of a computation in a child process; requests and answers are one line of JSON each."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file


class Child:
    """Holds one network with its input, and runs it on request."""

    def __init__(self, command: list[str], settings: dict[str, str] | None = None):
        self.command = command
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | (settings or {}))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        self.process.wait()

    def ask(self, **request) -> dict:
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise SystemExit(f"{' '.join(self.command)} failed at {request}; its message is above")
        return json.loads(answer)

    def run(self) -> float:
        return self.ask(op="run")["seconds"]

    def output(self, folder: Path) -> dict[str, torch.Tensor]:
        """The outputs of the last run."""
        path = folder / f"output-{self.process.pid}.safetensors"
        self.ask(op="save", output=str(path))
        return load_file(path)


def reference(case: str, form: str, folder: Path, threads: int, device: str) -> Child:
    """PyTorch's process. It writes the weights and inputs that our program needs to `folder`."""
    folder.mkdir()
    program = Path(__file__).with_name("reference.py")
    return Child([sys.executable, str(program), case, form, str(folder), str(threads), device])


def ours(program: str, threads: int, device: str) -> Child:
    """The program that `cargo bench --bench compare` builds."""
    return Child([program, "serve"], {"SPSAM_THREADS": str(threads), "SPSAM_DEVICE": device})
