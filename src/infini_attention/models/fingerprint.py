"""A short name for a model's weights and settings, to tell whether a snapshot or an adapter belongs to it."""

import hashlib
import json

import torch
from torch import nn

# Values looked at per tensor. Training moves all of them, so a sample tells models apart without reading a gigabyte.
_SAMPLES = 1024


@torch.no_grad()
def fingerprint(model: nn.Module) -> str:
    """SHA-256 over the names, shapes and evenly spaced values of all parameters, and the memory's settings."""
    digest = hashlib.sha256(json.dumps(getattr(model.config, "infini", None), sort_keys=True).encode())
    for name, parameter in sorted(model.named_parameters()):
        flat = parameter.detach().flatten()
        sample = flat[:: max(1, flat.numel() // _SAMPLES)].float().cpu().contiguous()
        digest.update(f"{name} {list(parameter.shape)} {parameter.dtype}".encode())
        digest.update(sample.numpy().tobytes())
    return digest.hexdigest()
