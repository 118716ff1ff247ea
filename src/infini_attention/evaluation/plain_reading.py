"""A plain model while it reads: the bytes of its cache and its speed, in the form of what is seen of a memory."""

import time
from collections.abc import Callable

import torch
from transformers import PreTrainedModel

from infini_attention.data.seeds import evaluation_rng
from infini_attention.evaluation.inspection import MARKS, Reading, summarize
from infini_attention.evaluation.journal import Record
from infini_attention.evaluation.stream import subject_of
from infini_attention.monitor.file import Recording

NAME = "plain"


@torch.inference_mode()
def read_plain(
    model: PreTrainedModel, reading: Reading, *, name: str, on_piece: Callable[[int], None] = lambda done: None
) -> Record:
    """Reads a text, and marks how large the cache is on the way.

    Args:
        model: a causal model that is no Infini model.
        reading: what it reads, without a planted key: attention would see it all the time.
        name: what the model is called.
        on_piece: called with the tokens read so far.

    Returns:
        what `inspection.summarize` says; without layers, retention and recall, and all that is read is in the window.

    Raises:
        ModelError: a model that cannot go on from its cache, or has no positions left.
    """
    subject = subject_of(model)
    per_token = None
    if subject.about["attention"] == "full":  # keys and values alone: one token's are those of every token
        stream = subject.open_stream()
        stream.read(torch.zeros(1, 1, dtype=torch.int64))
        per_token = stream.nbytes
    rng = evaluation_rng(reading.seed, NAME, reading.haystack.name, reading.tokens)
    ids = reading.haystack.cut(reading.tokens, rng)[None]
    stream, marks, tokens, seconds = subject.open_stream(), [], 0, 0.0
    for piece in ids.split(max(1, reading.tokens // MARKS), dim=1):
        start = time.perf_counter()
        stream.read(piece)
        seconds, tokens = seconds + time.perf_counter() - start, tokens + piece.shape[1]
        marks.append(
            {
                "tokens": tokens,
                "tokens_in_window": tokens,
                "state_bytes": stream.nbytes,
                "memory_bytes": 0,
                "layers": [],
                "seconds": round(seconds, 6),
            }
        )
        on_piece(tokens)
    about = {key: subject.about[key] for key in ("fingerprint", "rule", "segment_size")}
    result = summarize(Recording({"model": name, **about, "full_kv_bytes_per_token": per_token}, marks))
    text = {"name": reading.haystack.name, "digest": reading.haystack.digest}
    return result | {"haystack": text, "seed": reading.seed}
