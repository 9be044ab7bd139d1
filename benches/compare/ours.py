"""Our side of the comparison: the program that `cargo bench --bench compare` builds, as a child process."""

import json
import os
import subprocess
from pathlib import Path

import torch
from safetensors.torch import load_file


class Ours:
    """A child that holds networks and runs them on request, one line of JSON each way."""

    def __init__(self, program: str, threads: int, device: str):
        settings = {"SPSAM_THREADS": str(threads), "SPSAM_DEVICE": device}
        self.child = subprocess.Popen(
            [program, "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | settings)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.child.stdin.close()
        self.child.wait()

    def ask(self, **request) -> dict:
        self.child.stdin.write(json.dumps(request) + "\n")
        self.child.stdin.flush()
        answer = self.child.stdout.readline()
        if not answer:
            raise SystemExit(f"our side failed at {request}; its message is above")
        return json.loads(answer)

    def load(self, task: str, precision: str, request: dict) -> str:
        """Returns the precision that `auto` means."""
        return self.ask(op="load", task=task, precision=precision, **request)["precision"]

    def run(self, task: str) -> float:
        return self.ask(op="run", task=task)["seconds"]

    def output(self, task: str, folder: Path) -> dict[str, torch.Tensor]:
        path = folder / f"{task}.output.safetensors"
        self.ask(op="save", task=task, output=str(path))
        return load_file(path)
