"""The loss of every token of a long text, piece by piece, with a memory that is carried and without one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from infini_attention.evaluation.pieces import piece_tokens_on, whole_segments
from infini_attention.evaluation.stream import Stream
from infini_attention.models import InfiniCache
from infini_attention.models.scoring import POSITIONS, score


@torch.inference_mode()
def token_losses(
    model: PreTrainedModel,
    token_ids: Tensor,
    *,
    memory: bool = True,
    piece_tokens: int | None = None,
    on_piece: Callable[[int], None] = lambda done: None,
) -> Tensor:
    """Losses `[N]` (float64, in nats) of a text from its beginning on; 0 for the first token, which nothing foretells.

    Args:
        model: an Infini model.
        token_ids: `[N]` integers, all of the text.
        memory: False leaves every memory empty, so that the model sees its window alone: the segment and its overlap
            with the one before.
        piece_tokens: read at a time, rounded down to whole segments; None means what suits the device. It changes
            no result.
        on_piece: called after each piece with the tokens read so far.
    """
    size = model.config.infini_settings.segment_size
    piece_size = whole_segments(piece_tokens_on(model.device) if piece_tokens is None else piece_tokens, size)
    losses = [torch.zeros(1, dtype=torch.float64)]
    base: torch.nn.Module = model.base_model
    cache = InfiniCache(model.config.num_hidden_layers)
    with nullcontext() if memory else _without_memory(model):
        for start in range(0, len(token_ids), piece_size):
            # One more token than is read: the last position of a piece foretells the first token of the next one.
            ids = token_ids[start : start + piece_size + 1].to(model.device, torch.int64)
            hidden = base(input_ids=ids[None, :piece_size], past_key_values=cache, use_cache=True).last_hidden_state[0]
            losses.append(score(model, hidden[: len(ids) - 1], ids[1:]).cpu().double())
            on_piece(min(start + piece_size, len(token_ids)))
    return torch.cat(losses)


def plain_losses(stream: Stream, token_ids: Tensor, *, on_piece: Callable[[int], None] = lambda done: None) -> Tensor:
    """`token_losses` of a plain causal model, whose cache `stream` keeps.

    It is asked for its logits, which each family makes in its own way, at as many positions as fit.
    """
    losses = [torch.zeros(1, dtype=torch.float64)]
    for start in range(0, len(token_ids), POSITIONS):
        ids = token_ids[start : start + POSITIONS + 1].to(torch.int64)
        logits = stream.logits(ids[None, :POSITIONS])[0, : len(ids) - 1]
        losses.append(F.cross_entropy(logits, ids[1:].to(logits.device), reduction="none").cpu().double())
        on_piece(min(start + POSITIONS, len(token_ids)))
    return torch.cat(losses)


@contextmanager
def _without_memory(model: PreTrainedModel) -> Iterator[None]:
    """Every layer as one with the rule `none`: what an empty memory comes to, and faster than emptying it each time."""
    infini = model.config.infini
    model.config.infini = infini | {"rule": "none"}
    try:
        yield
    finally:
        model.config.infini = infini
