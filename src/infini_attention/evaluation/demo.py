"""The demonstration: a key in a long text, asked for with the memory on and off, and a small map of recall."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from infini_attention.data.haystack import Haystack
from infini_attention.data.recall import RecallSample, passkey
from infini_attention.data.seeds import evaluation_rng
from infini_attention.evaluation.journal import Journal, Record
from infini_attention.evaluation.runner import run
from infini_attention.evaluation.stream import Stream, Subject
from infini_attention.evaluation.tasks.passkey import PasskeyTask
from infini_attention.evaluation.writing import write
from infini_attention.models.states import full_kv_bytes

NAME = "demo"
PIECE_TOKENS = 2048  # read at a time; changes no result, but a long one would hold up the progress
# At five depths each at most 430,080 tokens: less than half of what the million itself takes.
MAP_LENGTHS, MAP_DEPTHS = (4096, 16384, 65536), 5
CELL = ("length", "depth", "exact", "outside_window")


@dataclass(frozen=True)
class HiddenKey:
    """A text with a key in it.

    Attributes:
        sample: the text, the question at its end, and the answer.
        key: the answer as text.
        depth: where the key stands, as a share of the filler.
    """

    sample: RecallSample
    key: str
    depth: float


@dataclass(frozen=True)
class Reading:
    """What a model made of it: the tokens of its answers, what it read before the question, and the state's bytes."""

    written: Tensor
    written_memory_off: Tensor
    tokens: int
    seconds: float
    nbytes: int


def hide_key(tokenizer: PreTrainedTokenizerBase, haystack: Haystack, tokens: int, seed: int) -> HiddenKey:
    """A text of so many tokens; `seed` draws the key, its place and the haystack's start, never as in training."""
    rng = evaluation_rng(seed, NAME, haystack.name, tokens)
    depth = rng.random()
    sample = passkey(tokenizer, tokens, rng, haystack, depth=depth)
    [(start, stop)] = sample.answers
    return HiddenKey(sample, as_text(tokenizer, sample.token_ids[start:stop]), depth)


def read_and_ask(
    subject: Subject, sample: RecallSample, *, on_piece: Callable[[int, float, int], None] = lambda *progress: None
) -> Reading:
    """Reads the text once and asks twice, the second time with the memory emptied in a fork of the stream.

    Args:
        subject: reads.
        sample: with one question.
        on_piece: called with the tokens read, the seconds and the bytes of the state.
    """
    ids, stream = sample.token_ids[None], subject.open_stream()
    [(question, _)], [(start, stop)] = sample.questions, sample.answers
    piece_size = max(1, PIECE_TOKENS // subject.unit) * subject.unit
    done, seconds, begun = 0, 0.0, time.perf_counter()
    for piece in ids[:, :question].split(piece_size, dim=1):
        stream.read(piece)
        done, seconds = done + piece.shape[1], time.perf_counter() - begun
        on_piece(done, seconds, stream.nbytes)
    nbytes, control = stream.nbytes, stream.fork()
    control.forget()
    written, without = (_ask(each, ids[:, question:start], stop - start) for each in (stream, control))
    return Reading(written, without, done, seconds, nbytes)


def measure_map(
    tokenizer: PreTrainedTokenizerBase,
    haystack: Haystack,
    subject: Subject,
    *,
    below: int,
    seed: int,
    on_sample: Callable[[int, int, int], None] = lambda done, of, tokens: None,
) -> list[Record]:
    """Recall at five depths of each length in `MAP_LENGTHS` that is below `below`, one sample each, memory on."""
    lengths = tuple(length for length in MAP_LENGTHS if length < below)
    if not lengths:
        return []
    task = PasskeyTask(tokenizer, haystack, lengths, MAP_DEPTHS, samples=1, seed=seed)
    records = run(task, subject, Journal(), on_sample=on_sample)
    return [{name: record[name] for name in CELL} for record in records]


def figures(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    hidden: HiddenKey,
    reading: Reading,
    cells: list[Record],
) -> Record:
    """All that was measured; the long text is the last cell of `grid`."""
    sample, tokens = hidden.sample, len(hidden.sample.token_ids)
    [(needle, end)], [(question, start)], [(_, stop)] = sample.needles, sample.questions, sample.answers
    settings = model.config.infini_settings
    right, [outside] = sample.token_ids[start:stop], sample.outside_window(settings.segment_size, settings.overlap)
    recalled = torch.equal(reading.written, right)
    cell = dict(zip(CELL, (tokens, hidden.depth, float(recalled), int(outside)), strict=True))
    return {
        "tokens": tokens,
        "depth": hidden.depth,
        "needle_token": needle,
        "tokens_to_question": question - end,
        "outside_window": outside,
        "key": hidden.key,
        "answer": as_text(tokenizer, reading.written),
        "answer_memory_off": as_text(tokenizer, reading.written_memory_off),
        "recalled": recalled,
        "recalled_memory_off": torch.equal(reading.written_memory_off, right),
        "seconds": round(reading.seconds, 3),
        "tokens_per_second": round(reading.tokens / reading.seconds, 1),
        "state_bytes": reading.nbytes,
        "full_kv_bytes": full_kv_bytes(model, tokens),
        "grid": [*cells, cell],
    }


def _ask(stream: Stream, question: Tensor, count: int) -> Tensor:
    """The `count` tokens that the model writes after `question [1, T]`, greedily."""
    [written] = write(stream, stream.read(question), count)
    return torch.tensor(written)


def as_text(tokenizer: PreTrainedTokenizerBase, token_ids: Tensor) -> str:
    """What can be shown of it, on a line: what a model makes up may be a control character."""
    text = " ".join(str(tokenizer.decode(token_ids)).split())
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
