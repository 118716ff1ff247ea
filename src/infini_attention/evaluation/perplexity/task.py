"""Reads whole texts as streams, with the memory and without it, and keeps the losses of their segments."""

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from infini_attention.errors import ConfigError, InputError, ModelError
from infini_attention.evaluation.journal import Journal, Record
from infini_attention.evaluation.perplexity.losses import plain_losses, token_losses
from infini_attention.evaluation.perplexity.texts import Text
from infini_attention.evaluation.stream import is_infini_model, subject_of
from infini_attention.models.config import DEFAULT_SEGMENT_SIZE
from infini_attention.models.states import empty_states, full_kv_bytes

NAME = "perplexity"
MODES = ("on", "off")
PROTOCOL = 2  # counts up when losses or sums change, so that old records are not taken for new ones
BLOCK_TOKENS = DEFAULT_SEGMENT_SIZE  # summed up at a time where the model itself has no segments


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
        model: an Infini model, or a plain causal model, which sees all that it has read.
        texts: each is a stream of its own, read from its first token to its last one.
        modes: `on` carries the memory all the way; with `off`, the control, it stays empty. A plain model has `on`
            alone.
        journal: what was run before; the same text is not read again in the same mode by the same model.
        on_piece: called after each piece with the tokens read, those that there are to read in all, and the bytes of a
            stream's state.

    Raises:
        ConfigError: a plain model without its memory.
        InputError: the same text twice.
        ModelError: a loss that is not a number.
    """
    _check_different(texts)
    if not is_infini_model(model) and "off" in modes:
        raise ConfigError("a model with full attention has no memory to switch off; measure it with the memory on")
    about = subject_of(model).about
    runs = [(text, mode, _key(text, mode, about["fingerprint"])) for text in texts for mode in modes]
    due = [(text, mode, key) for text, mode, key in runs if journal.find(key) is None]
    before, total = 0, sum(len(text.token_ids) for text, _, _ in due)

    def show(before: int, done: int, nbytes: int) -> None:
        on_piece(before + done, total, nbytes)

    for text, mode, key in due:
        start = time.perf_counter()
        losses, nbytes, full = _read(model, text, mode, partial(show, before))
        seconds, before = time.perf_counter() - start, before + len(text.token_ids)
        _check_finite(losses, text, mode)
        record = {
            "file": text.name,
            "tokens_read": len(text.token_ids),
            "segments": segment_sums(text, losses, about["segment_size"] or BLOCK_TOKENS),
            "state_bytes": nbytes,
            "full_kv_bytes": full,
            "seconds": round(seconds, 6),
        }
        journal.append(key | record | about)
    found = [journal.find(key) for _, _, key in runs]
    return [record for record in found if record is not None]


def _read(
    model: PreTrainedModel, text: Text, mode: str, on_piece: Callable[[int, int], None]
) -> tuple[Tensor, int, int]:
    """The losses of a text, the bytes of the state at its end, and those of a full key-value cache."""
    if not is_infini_model(model):
        stream = subject_of(model).open_stream()
        losses = plain_losses(stream, text.token_ids, on_piece=lambda done: on_piece(done, stream.nbytes))
        return losses, stream.nbytes, stream.nbytes
    nbytes = sum(state.nbytes for state in empty_states(model))
    losses = token_losses(model, text.token_ids, memory=mode == "on", on_piece=lambda done: on_piece(done, nbytes))
    return losses, nbytes, full_kv_bytes(model, len(text.token_ids))


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
