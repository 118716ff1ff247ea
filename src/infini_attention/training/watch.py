"""What the memories of a model do while it runs: write strengths, gates, decays."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from infini_attention.nn import InfiniMemory, MemoryInputs


class MemoryWatch:
    """Keeps what each memory was given in the last forward pass.

    Attributes:
        inputs: layer index to `MemoryInputs`.
    """

    def __init__(self) -> None:
        self.inputs: dict[str, MemoryInputs] = {}

    def write_strength(self) -> Tensor | None:
        """Sum over layers of the mean beta; what is not written at all counts as 0 and is pushed no further down."""
        betas = [entry.beta for entry in self.inputs.values() if entry.beta is not None]
        return torch.stack([(beta * (beta > 0)).mean() for beta in betas]).sum() if betas else None

    @torch.no_grad()
    def figures(self) -> dict[str, float]:
        """Means over the last pass, per layer: for the log."""
        figures = {}
        for name, entry in self.inputs.items():
            figures[f"gate/{name}"] = entry.gate.sigmoid().mean().item()
            if entry.beta is not None:
                figures[f"beta/{name}"] = entry.beta.mean().item()
                figures[f"written/{name}"] = (entry.beta > 0).float().mean().item()
            if entry.log_decay is not None:
                figures[f"decay/{name}"] = 1 - entry.log_decay.exp().mean().item()
        return figures


@contextmanager
def watched(model: nn.Module) -> Iterator[MemoryWatch]:
    """Watches all memories of `model` inside the block."""
    watch = MemoryWatch()
    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, InfiniMemory):
            layer = next(part for part in name.split(".") if part.isdecimal())

            def keep(_module: nn.Module, _inputs: object, output: MemoryInputs, layer: str = layer) -> None:
                watch.inputs[layer] = output

            hooks.append(module.register_forward_hook(keep))
    try:
        yield watch
    finally:
        for hook in hooks:
            hook.remove()
