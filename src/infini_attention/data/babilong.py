"""Facts of a story among the sentences of a book, after BABILong (Kuratov et al. 2024, arXiv 2406.10149)."""

import random
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from infini_attention.data.assembly import Assembly
from infini_attention.data.babi import SPLITS, Story, draw_story
from infini_attention.data.chat import question_tokens
from infini_attention.data.haystack import Haystack, sentence_ends
from infini_attention.data.recall import RecallSample
from infini_attention.data.tokens import encode_after, tokenize_stream
from infini_attention.errors import InputError

NEW_TOKENS = 32


@dataclass(frozen=True)
class BabilongSample(RecallSample):
    """A prompt, `token_ids [T]`, whose question stands at its end.

    The source is the last of the facts that the answer hangs on.

    Attributes:
        story: what is hidden, and the answer.
    """

    story: Story | None = None


def babilong_sample(
    tokenizer: PreTrainedTokenizerBase,
    task: str,
    length: int,
    rng: random.Random,
    haystack: Haystack,
    *,
    split: str = "seen",
    with_needle: bool = True,
) -> BabilongSample:
    """The sentences of a story, in order, each behind a sentence of the haystack, and the question.

    The question is a user's turn where the tokenizer has a chat template, and "Question: ... Answer:" where not. What
    differs from the official prompt: no instruction and no examples stand before the text.

    Args:
        tokenizer: of the model; a fast one.
        task: of `babi.TASKS`.
        length: the prompt has exactly so many tokens, less `NEW_TOKENS` for the answer.
        rng: draws all there is to draw.
        haystack: the book.
        split: of `babi.SPLITS`.
        with_needle: False leaves out all sentences of the story: a control.

    Raises:
        InputError: a length that is too small.
    """
    story = draw_story(task, SPLITS[split], rng)
    opening = [token for piece in tokenize_stream([], tokenizer) for token in piece.token_ids]
    told = story.facts if with_needle else ()
    hidden = [encode_after(".", f" {fact}", tokenizer).token_ids for fact in told]
    question = question_tokens(tokenizer, story.question)
    used, total = len(opening) + sum(map(len, hidden)) + len(question), length - NEW_TOKENS
    if total < used:
        raise InputError(
            f"{length} tokens are too few for {task}, which takes {used + NEW_TOKENS} here, its answer included; use a "
            "longer length"
        )
    filler = haystack.cut(total - used, rng)
    text = Assembly()
    text.add(opening)
    needles = text.hide(hidden, sentence_ends(tokenizer, filler, len(hidden), rng), filler)
    asked = text.add(question)
    return BabilongSample(
        text.token_ids,
        answers=(),
        needles=needles,
        questions=(asked,),
        sources=(needles[story.support] if needles else None,),
        story=story,
    )
