"""The loss of every token of a long piece, without ever holding the logits of all of it."""

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

# Positions whose logits exist at the same time: 256 x 49152 float32 logits are 50 MB.
POSITIONS = 256


@torch.no_grad()
def score(model: PreTrainedModel, hidden: Tensor, next_ids: Tensor) -> Tensor:
    """Losses `[N]` (float32, in nats) of the tokens `next_ids [N]`, each after its position of `hidden [N, E]`."""
    losses = [
        F.cross_entropy(logits_of(model, part), ids, reduction="none")
        for part, ids in zip(hidden.split(POSITIONS), next_ids.split(POSITIONS), strict=True)
    ]
    return torch.cat(losses) if losses else hidden.new_zeros(0, dtype=torch.float32)


def logits_of(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """Next-token logits `[..., vocabulary]` (float32) of the base model's output `[..., E]`."""
    logits = model.get_output_embeddings()(hidden).float() / getattr(model.config, "logits_scaling", 1)
    softcap = getattr(model.config, "final_logit_softcapping", None)
    return logits if softcap is None else torch.tanh(logits / softcap) * softcap
