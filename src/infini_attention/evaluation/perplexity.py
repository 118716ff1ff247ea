"""Reads whole texts as streams, with the memory and without it, and keeps the losses of their segments."""

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from infini_attention.errors import InputError, ModelError
from infini_attention.evaluation.journal import Journal, Record
from infini_attention.evaluation.losses import token_losses
from infini_attention.evaluation.stream import subject_of
from infini_attention.evaluation.texts import Text
from infini_attention.models import InfiniCache
from infini_attention.models.states import empty_states, full_kv_bytes

NAME = "perplexity"
MODES = ("on", "off")
PROTOCOL = 1  # counts up when losses or sums change, so that old records are not taken for new ones


def measure(
    model: PreTrainedModel,
    texts: Sequence[Text],
    modes: Sequence[str],
    journal: Journal,
    *,
    on_piece: Callable[[int, int, int], None] = lambda done, of, nbytes: None,
) -> list[Record]:
    """A record for each text and mode, those that the journal had included.

    Args:
        model: an Infini model.
        texts: each is a stream of its own, read from its first token to its last one.
        modes: `on` carries the memory all the way; `off`, the control, begins each segment with an empty one.
        journal: what was run before; the same text is not read again in the same mode by the same model.
        on_piece: called after each piece with the tokens read, those that there are to read in all, and the bytes of a
            stream's state.

    Raises:
        InputError: the same text twice.
        ModelError: a loss that is not a number.
    """
    _check_different(texts)
    about = subject_of(model).about
    runs = [(text, mode, _key(text, mode, about["fingerprint"])) for text in texts for mode in modes]
    due = [(text, mode, key) for text, mode, key in runs if journal.find(key) is None]
    nbytes = sum(state.nbytes for state in empty_states(model))
    before, total = 0, sum(len(text.token_ids) for text, _, _ in due)

    def show(before: int, done: int) -> None:
        on_piece(before + done, total, nbytes)

    for text, mode, key in due:
        cache = InfiniCache(model.config.num_hidden_layers) if mode == "on" else None
        start = time.perf_counter()
        losses = token_losses(model, text.token_ids, cache, on_piece=partial(show, before))
        seconds, before = time.perf_counter() - start, before + len(text.token_ids)
        _check_finite(losses, text, mode)
        record = {
            "file": text.name,
            "tokens_read": len(text.token_ids),
            "segments": segment_sums(text, losses, about["segment_size"]),
            # Segments that are read apart leave no state; the stream that they stand for would have one of this size.
            "state_bytes": nbytes if cache is None else cache.nbytes,
            "full_kv_bytes": full_kv_bytes(model, len(text.token_ids)),
            "seconds": round(seconds, 6),
        }
        journal.append(key | record | about)
    found = [journal.find(key) for _, _, key in runs]
    return [record for record in found if record is not None]


def _check_different(texts: Iterable[Text]) -> None:
    """Raises `InputError` for a text that is there twice: it would count as twice as much evidence."""
    names: dict[str, str] = {}
    for text in texts:
        if text.digest in names:
            raise InputError(f"{text.name}: is the same text as {names[text.digest]}; name each text once")
        names[text.digest] = text.name


def _key(text: Text, mode: str, fingerprint: str) -> Record:
    """All that a record depends on."""
    return {
        "task": NAME,
        "protocol": PROTOCOL,
        "digest": text.digest,
        "memory": mode,
        "fingerprint": fingerprint,
    }


def _check_finite(losses: Tensor, text: Text, mode: str) -> None:
    wrong = (~losses.isfinite()).nonzero()
    if len(wrong):
        place = int(wrong[0])
        raise ModelError(
            f"{text.name}: the loss of token {place:,} is {losses[place]} with memory {mode}; try --dtype float32"
        )


def segment_sums(text: Text, losses: Tensor, segment_size: int) -> dict[str, list[float]]:
    """What each segment adds up to: scored tokens, their bytes and words, and their losses in nats.

    A token belongs to the segment that it stands in, though the first one of a segment is foretold by the one before.
    The first token of the text is not scored, and neither are its bytes and words counted.
    """
    scored = torch.ones(len(losses), dtype=torch.int64)
    scored[0] = 0
    columns = {"tokens": scored, "bytes": text.nbytes * scored, "words": text.words * scored, "nats": losses}
    return {name: _sums(column, segment_size) for name, column in columns.items()}


def _sums(column: Tensor, segment_size: int) -> list[float]:
    sums = F.pad(column, (0, -len(column) % segment_size)).view(-1, segment_size).sum(1)
    return sums.tolist() if not sums.is_floating_point() else [round(nats, 6) for nats in sums.tolist()]
