"""Samples that ask for what stood far back: pass keys in a haystack, exactly as many tokens as asked for."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from infini_attention.data.assembly import Assembly, Span
from infini_attention.data.haystack import Haystack
from infini_attention.data.names import TRAIN_NAMES
from infini_attention.data.tokens import encode_after, tokenize_stream
from infini_attention.errors import InputError

# The prompt of landmark attention (Mohtashami and Jaggi 2023). Each piece carries the space before it, as tokens do.
OPENING = (
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize them. I will quiz you "
    "about the important information there."
)
NEEDLE = " The pass key is {key}. Remember it. {key} is the pass key."
QUESTION = " What is the pass key? The pass key is "
NAMED_NEEDLE = " The pass key of {name} is {key}. Remember it. {key} is the pass key of {name}."
NAMED_QUESTION = " What is the pass key of {name}? The pass key of {name} is "


@dataclass(frozen=True)
class RecallSample:
    """A text with questions and their answers.

    Attributes:
        token_ids: `[T]` int64.
        answers: where each answer stands.
        needles: where each needle stands, in order of place.
        names: whom each question is about; "" where there is one key only.
        questions: where each question stands; its answer follows it at once.
        sources: the needle that holds each answer: the latest of its name. None where it was left out.
    """

    token_ids: Tensor
    answers: tuple[Span, ...]
    needles: tuple[Span, ...] = ()
    names: tuple[str, ...] = ()
    questions: tuple[Span, ...] = ()
    sources: tuple[Span | None, ...] = ()

    def outside_window(self, segment_size: int | None, overlap: int = 0) -> list[bool]:
        """Per question: whether its needle ended before the segment began in which the question begins, or its overlap.

        Only then is the answer out of the sight of local attention, and a right one comes from the memory. Without
        segments (None) attention sees everything.
        """
        return [
            segment_size is not None
            and source is not None
            and source[1] <= question[0] // segment_size * segment_size - overlap
            for source, question in zip(self.sources, self.questions, strict=True)
        ]


def passkey(
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    rng: random.Random,
    haystack: Haystack,
    *,
    depth: float | None = None,
    with_needle: bool = True,
    text_rng: random.Random | None = None,
) -> RecallSample:
    """One key of five digits, hidden at share `depth` of the filler; the sample ends with it.

    Args:
        tokenizer: of the model; a fast one.
        length: tokens of the whole sample.
        rng: draws the key, the depth where it is None, and the haystack's start.
        haystack: the filler.
        depth: 0 puts the needle before all filler, 1 behind it.
        with_needle: False leaves the needle out, which makes the answer unknowable: a control.
        text_rng: draws the haystack's start, where several samples shall have the same one; None means `rng`.

    Raises:
        InputError: a length that is too small, or a depth that is no share.
    """
    if depth is not None and not 0 <= depth <= 1:
        raise InputError(f"depth must be between 0 and 1, a share of the filler; got {depth}")
    key, depth = draw_key(rng), rng.random() if depth is None else depth
    needles = [("", key)] if with_needle else []
    wording, depths = (NEEDLE, QUESTION), [depth] * len(needles)
    return _sample(tokenizer, length, text_rng or rng, haystack, wording, needles, [("", key)], depths)


def named_keys(
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    rng: random.Random,
    haystack: Haystack,
    *,
    keys: int,
    questions: int,
    rewritten: int = 0,
    names: Sequence[str] = TRAIN_NAMES,
    last_depth: float = 0.0,
    with_needle: bool = True,
) -> RecallSample:
    """Keys of several people at random places, some of them written again later; questions about some, the latest wins.

    Args:
        tokenizer, length, rng, haystack: as for `passkey`.
        keys: people who have one.
        questions: people who are asked about, in random order.
        rewritten: people whose key is written a second time, with another value.
        names: first names to draw from.
        last_depth: the last of the needles stands at this share of the filler, or behind it.
        with_needle: False leaves all needles out and asks the same: a control.

    Raises:
        InputError: a length that is too small, or counts that do not fit together.
    """
    if not 1 <= keys <= len(names):
        raise InputError(f"keys must be between 1 and {len(names)}, the names there are; got {keys}")
    if not 1 <= questions <= keys or not 0 <= rewritten <= keys:
        raise InputError(
            f"questions must be between 1 and {keys} and rewritten between 0 and {keys}, the number of keys; got "
            f"{questions} and {rewritten}"
        )
    people = rng.sample(list(names), keys)
    needles = [(name, draw_key(rng)) for name in people]
    latest = dict(needles)
    for name in rng.sample(people, rewritten):
        first = next(place for place, (other, _) in enumerate(needles) if other == name)
        latest[name] = draw_key(rng, other_than=latest[name])
        needles.insert(rng.randint(first + 1, len(needles)), (name, latest[name]))
    asked = [(name, latest[name]) for name in rng.sample(people, questions)]
    depths = sorted(rng.random() for _ in needles)
    depths[-1] = max(depths[-1], last_depth)
    if not with_needle:
        needles, depths = [], []
    return _sample(tokenizer, length, rng, haystack, (NAMED_NEEDLE, NAMED_QUESTION), needles, asked, depths)


def draw_key(rng: random.Random, *, other_than: str | None = None) -> str:
    """Five digits, each number from 10000 to 99999 equally likely."""
    while (key := str(rng.randrange(10_000, 100_000))) == other_than:
        pass
    return key


def _sample(
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    rng: random.Random,
    haystack: Haystack,
    wording: tuple[str, str],
    needles: list[tuple[str, str]],
    asked: list[tuple[str, str]],
    depths: list[float],
) -> RecallSample:
    """Puts the pieces together as tokens; the filler takes what the others leave of `length`."""
    opening = [token for piece in tokenize_stream([OPENING], tokenizer) for token in piece.token_ids]
    hidden = [encode_after(".", wording[0].format(name=name, key=key), tokenizer).token_ids for name, key in needles]
    quiz = [encode_question(tokenizer, wording[1].format(name=name), key) for name, key in asked]
    stop = encode_after("1", ".", tokenizer).token_ids
    used = len(opening) + sum(map(len, hidden)) + sum(len(q) + len(a) for q, a in quiz) + len(stop) * (len(quiz) - 1)
    if length < used:
        raise InputError(
            f"{length} tokens are too few for {len(needles)} needles and {len(asked)} questions, which take {used} "
            "with this tokenizer; use a longer length or fewer keys"
        )
    filler = haystack.cut(length - used, rng)
    text = Assembly()
    text.add(opening)
    spans = text.hide(hidden, [round(depth * len(filler)) for depth in depths], filler)
    latest = {name: span for (name, _), span in zip(needles, spans, strict=True)}
    questions, answers = [], []
    for number, (question, answer) in enumerate(quiz):
        if number:
            text.add(stop)
        questions.append(text.add(question))
        answers.append(text.add(answer))
    people = tuple(name for name, _ in asked)
    return RecallSample(
        text.token_ids,
        tuple(answers),
        spans,
        people,
        tuple(questions),
        tuple(latest.get(name) for name in people),
    )


def encode_question(tokenizer: PreTrainedTokenizerBase, question: str, key: str) -> tuple[list[int], list[int]]:
    """The tokens of the question, and those of its answer, which a token that joins space and key belongs to.

    Raises:
        InputError: a tokenizer that does not give the key back.
    """
    piece = encode_after(".", question + key, tokenizer)
    cut = next(place for place, end in enumerate(piece.ends) if end > len(question))
    answer = piece.token_ids[cut:]
    found = tokenizer.decode(answer)
    if str(found).strip() != key:
        raise InputError(f"this tokenizer does not give a key back: {key} became {found!r}; use another tokenizer")
    return piece.token_ids[:cut], answer
