"""The loss of each token, in parts: over a large vocabulary it takes more memory than the rest of the model."""

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

# So many float32 logits exist at the same time, and again for their gradients: 128 MB.
PART = 2**25


def token_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each token, in float32; what it takes in float32 is made again in the backward pass.

    Args:
        logits: `[N, V]`, of any floating dtype.
        labels: `[N]` int64.

    Returns:
        `[N]` float32, in nats.
    """
    rows = max(1, PART // logits.shape[1])
    parts = zip(logits.split(rows), labels.split(rows), strict=True)
    return torch.cat([checkpoint(_losses, *part, use_reentrant=False, preserve_rng_state=False) for part in parts])


def _losses(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits.float(), labels, reduction="none")
