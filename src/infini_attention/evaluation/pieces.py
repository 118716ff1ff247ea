"""How much of a text a model is given at a time. It changes no result."""

import torch

CPU_TOKENS = 4096  # over all rows of a batch: what stays in a processor's cache
GPU_TOKENS = 65536  # enough to keep one busy


def piece_tokens_on(device: torch.device) -> int:
    """So many tokens at a time, over all rows of a batch."""
    return CPU_TOKENS if device.type == "cpu" else GPU_TOKENS


def whole_segments(tokens: int, unit: int) -> int:
    """The most tokens up to `tokens` that are whole segments of `unit`; at least one segment."""
    return max(1, tokens // unit) * unit
