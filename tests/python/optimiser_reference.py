"""Parameters after each step of torch.optim's SGD and AdamW (torch 2.11.0), for tests/parity/training.rs.

Usage: optimiser_reference.py FOLDER. Writes FOLDER/optimiser.safetensors: start.<p>, gradient.<p> [steps, …], rates
[steps], and <case>.<p> [steps, …] with the parameters after each step, gradients clipped to a norm of 1.5 together.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

STEPS = 25
CLIP = 1.5

torch.manual_seed(3)
start = {"a": torch.randn(4, 3), "b": torch.randn(5)}
# Some steps stay under the clipping norm and some exceed it.
scales = torch.linspace(0.05, 2.0, STEPS)
gradient = {name: torch.randn(STEPS, *p.shape) * scales.view(-1, *[1] * p.dim()) for name, p in start.items()}
rates = torch.rand(STEPS, dtype=torch.float64) * 0.05
tensors = {f"start.{name}": p for name, p in start.items()} | {"rates": rates}
tensors |= {f"gradient.{name}": g for name, g in gradient.items()}
cases = {
    "sgd_nesterov": lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.99, nesterov=True, weight_decay=3e-5),
    "sgd": lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.9, weight_decay=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1.0, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01),
}
for case, make in cases.items():
    parameters = {name: p.clone().requires_grad_() for name, p in start.items()}
    optimiser = make(list(parameters.values()))
    after = {name: [] for name in parameters}
    for step in range(STEPS):
        optimiser.param_groups[0]["lr"] = rates[step].item()
        for name, p in parameters.items():
            p.grad = gradient[name][step].clone()
        torch.nn.utils.clip_grad_norm_(parameters.values(), CLIP)
        optimiser.step()
        for name, p in parameters.items():
            after[name].append(p.detach().clone())
    tensors |= {f"{case}.{name}": torch.stack(values) for name, values in after.items()}
folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
save_file(tensors, folder / "optimiser.safetensors")
