"""Stories tell what is asked, and stand in a book where they are said to."""

import random
from collections import Counter

import pytest

from chats import chat_tokenizer
from infini_attention.data.babi import SPLITS, TASKS, draw_story
from infini_attention.data.babilong import NEW_TOKENS, babilong_sample
from infini_attention.data.chat import ChatTemplate
from infini_attention.data.haystack import Haystack
from infini_attention.data.names import TRAIN_NAMES
from infini_attention.data.vocabulary import byte_tokenizer
from infini_attention.errors import InputError
from stories import facts_in, solve
from tiny import book, byte_level
from tiny import byte_tokenizer as with_start

BYTES = byte_tokenizer()


def stories(task, split="seen", count=200):
    return [draw_story(task, SPLITS[split], random.Random(seed)) for seed in range(count)]


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("task", TASKS)
def test_the_sentences_alone_give_the_answer(task, split):
    for story in stories(task, split):
        text = " ".join(story.facts)
        assert len(facts_in(text)) == len(story.facts)
        assert solve(text, story.question) == story.answer, (text, story.question)
        assert story.answer in story.labels
        assert story.answer not in story.question
        assert solve(" ".join(story.facts[: story.support + 1]), story.question) == story.answer


@pytest.mark.parametrize("task", TASKS)
def test_the_last_support_is_needed(task):
    """Without the sentence that the answer hangs on, most stories tell something else."""
    changed = 0
    for story in stories(task):
        rest = " ".join(fact for number, fact in enumerate(story.facts) if number != story.support)
        changed += solve(rest, story.question) != story.answer
    assert changed > 120


def test_stories_written_out_by_hand():
    text = "Mary went to the garden. Mary took the milk. John moved to the office. Mary moved to the kitchen. "
    text += "Mary left the milk. Mary went to the office. John gave the cake to Mary. Mary gave the cake to Fred. "
    text += "The garden is north of the office. The kitchen is west of the office."
    for question, answer in (
        ("Where is Mary?", "office"),
        ("Where is the milk?", "kitchen"),
        ("Where was the milk before the kitchen?", "garden"),
        ("What is north of the office?", "garden"),
        ("What is the office east of?", "kitchen"),
        ("Who gave the cake?", "Mary"),
        ("Who gave the cake to Mary?", "John"),
        ("What did Mary give to Fred?", "cake"),
        ("Who received the cake?", "Fred"),
        ("Who did John give the cake to?", "Mary"),
    ):
        assert solve(text, question) == answer


@pytest.mark.parametrize("task", TASKS)
def test_who_guesses_is_at_chance(task):
    """No answer is much likelier than the others."""
    drawn = stories(task, count=600)
    counts = Counter(story.answer for story in drawn)
    assert max(counts.values()) / 600 < (0.25 if task != "qa5" else 0.2)
    assert set(counts) <= set(drawn[0].labels)


def test_splits_share_no_word():
    seen, held_out = ({*words.people, *words.places, *words.things} for words in SPLITS.values())
    assert not seen & held_out
    assert not {*SPLITS["held-out"].people} & {*TRAIN_NAMES}
    for words in (seen, held_out):
        assert not [(a, b) for a in words for b in words if a != b and a.lower() in b.lower()]


@pytest.mark.parametrize(
    "tokenizer",
    [BYTES, with_start("<s>"), byte_level(), chat_tokenizer()],
    ids=["bytes", "start token", "gpt2", "chat"],
)
def test_facts_are_where_they_are_said_to_be(tokenizer):
    haystack = Haystack(tokenizer(book(60_000), add_special_tokens=False)["input_ids"])
    for seed, task in enumerate(TASKS):
        sample = babilong_sample(tokenizer, task, 3000, random.Random(seed), haystack)
        story = sample.story
        assert len(sample.token_ids) == 3000 - NEW_TOKENS == sample.questions[0][1]
        found = tuple(tokenizer.decode(sample.token_ids[start:stop]).strip() for start, stop in sample.needles)
        assert found == story.facts
        assert list(sample.needles) == sorted(sample.needles)
        assert sample.sources == (sample.needles[story.support],)
        asked = sample.token_ids[slice(*sample.questions[0])].tolist()
        if tokenizer.chat_template:
            assert asked == ChatTemplate(tokenizer).first(story.question)
        else:
            assert tokenizer.decode(asked) == f"\n\nQuestion: {story.question}\nAnswer:"


def test_without_facts_the_same_is_asked():
    haystack = Haystack(list(book(20_000).encode()))
    full, none = (
        babilong_sample(BYTES, "qa2", 2000, random.Random(3), haystack, with_needle=each) for each in (True, False)
    )
    assert (none.story, none.needles, none.sources) == (full.story, (), (None,))
    assert len(none.token_ids) == len(full.token_ids)


def test_too_short():
    with pytest.raises(InputError, match=r"100 tokens are too few for qa1, which takes \d+ here, its answer included"):
        babilong_sample(BYTES, "qa1", 100, random.Random(0), Haystack(list(b"A sentence. ")))
