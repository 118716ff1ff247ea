"""A key planted in one long stream, and asked for again and again: what a memory is worth in a few questions."""

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, nullcontext

from transformers import PreTrainedTokenizerBase

from infini_attention.data.haystack import Haystack
from infini_attention.data.recall import passkey
from infini_attention.data.seeds import evaluation_rng
from infini_attention.errors import ConfigError
from infini_attention.evaluation.journal import Record
from infini_attention.evaluation.recall import recall
from infini_attention.evaluation.stream import Stream

NAME = "planted"
QUESTIONS = 4  # at a quarter, half, three quarters and the end of the text
LEAST_SEGMENTS = 3  # the key has then left the segment in which it is asked for
PIECES, PIECE_TOKENS = 16, 1024  # so many, where they are no longer than that; changes no result


def plant_and_ask(
    stream: Stream,
    tokenizer: PreTrainedTokenizerBase,
    haystack: Haystack,
    *,
    tokens: int,
    segment_size: int,
    overlap: int = 0,
    start: int = 0,
    seed: int = 0,
    aside: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Generator[int, None, Record]:
    """Reads a pass key and about so many tokens of filler; the questions are put to forks, with the memory on and off.

    One key is an anecdote: this shows over which distance the memory keeps it, not how often.

    Args:
        stream: of one row; it moves forward, and is never asked itself.
        tokenizer: of the model.
        haystack: the filler.
        tokens: of key, filler, question and answer.
        segment_size: C.
        overlap: W.
        start: tokens that the stream has read.
        seed: of key and filler; never one of training's.
        aside: a context for what is no part of the stream: what is done in forks, and between the pieces.

    Yields:
        After each piece, the tokens read so far; whoever stops there has lost nothing but the answer.

    Returns:
        tokens (read), asked (questions when attention could no longer see the key), hits, hits_memory_off, longest
        (tokens between the key and the last question that was answered; None where none was).

    Raises:
        ConfigError: fewer than three segments.
        InputError: too few tokens for this tokenizer.
    """
    if tokens < LEAST_SEGMENTS * segment_size:
        raise ConfigError(
            f"the key has to leave its segment before it is asked for: expected at least {LEAST_SEGMENTS} segments of "
            f"{segment_size} tokens, {LEAST_SEGMENTS * segment_size} in all; got {tokens}"
        )
    rng = evaluation_rng(seed, NAME, haystack.name, tokens)
    sample = passkey(tokenizer, tokens, rng, haystack, depth=0.0)
    [(_, needle)], [(question, _)] = sample.needles, sample.questions
    piece_size = max(1, min(PIECE_TOKENS, tokens // PIECES) // segment_size) * segment_size
    asked, hits, control, longest, place = 0, 0, 0, None, 0
    for number in range(1, QUESTIONS + 1):
        stop = question * number // QUESTIONS
        while place < stop:  # pieces end where segments do, whatever was read before
            end = min(stop, place + piece_size - (start + place) % segment_size)
            stream.read(sample.token_ids[None, place:end])
            place = end
            with aside():
                yield place
        if start + needle > (start + place) // segment_size * segment_size - overlap:
            continue  # attention still sees it
        with aside():
            right, without = (
                bool(recall(stream.fork(), [sample], start=question, memory=memory, piece_size=piece_size).hits.all())
                for memory in (True, False)
            )
        asked, hits, control = asked + 1, hits + right, control + without
        longest = place - needle if right else longest
    return {"tokens": place, "asked": asked, "hits": hits, "hits_memory_off": control, "longest": longest}
