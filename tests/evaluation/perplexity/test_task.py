"""Losses with the memory on and off, against the slow way to the same numbers; and nothing is read twice."""

import json
from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

from helpers import FLOAT32, RULES, assert_close
from infini_attention.errors import InputError, ModelError
from infini_attention.evaluation.journal import Journal
from infini_attention.evaluation.perplexity.losses import token_losses
from infini_attention.evaluation.perplexity.task import measure, segment_sums
from infini_attention.evaluation.perplexity.texts import Text
from infini_attention.evaluation.stream import ModelStream
from infini_attention.models import convert
from tiny import SEGMENT, base_model, book, byte_tokenizer, infini_model

LENGTH = 7 * SEGMENT + 5


@pytest.fixture(scope="module")
def model():
    return infini_model()


@pytest.fixture(scope="module")
def texts():
    return [Text.from_blocks([book()[n : n + LENGTH + n]], byte_tokenizer(), name=f"text {n}") for n in (0, 1000)]


def losses(model, text, mode, **options):
    return token_losses(model, text.token_ids, memory=mode == "on", **options)


def one_by_one(model, text, mode):
    """A token at a time through one stream, whose memory is emptied wherever a segment ends if `mode` is off."""
    stream, found = ModelStream(model), [0.0]
    ids = text.token_ids.long()
    for place, (token, following) in enumerate(pairwise(ids), start=1):
        logits = stream.read(token[None, None])
        if mode == "off" and place % SEGMENT == 0:
            stream.forget()
        found.append(float(F.cross_entropy(logits, following[None])))
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize("overlap", [0, 3])
@pytest.mark.parametrize("mode", ["on", "off"])
@pytest.mark.parametrize("rule", RULES)
def test_the_same_as_token_by_token(texts, rule, mode, overlap):
    """With an overlap, the model without its memory still sees the last tokens of the segment before."""
    model = infini_model(rule=rule, overlap=overlap)
    assert_close(losses(model, texts[0], mode), one_by_one(model, texts[0], mode), FLOAT32)


@pytest.mark.parametrize("mode", ["on", "off"])
@pytest.mark.parametrize("piece_tokens", [1, SEGMENT, 3 * SEGMENT + 1, 7 * SEGMENT])
def test_pieces_change_nothing(model, texts, mode, piece_tokens):
    done = []
    out = losses(model, texts[0], mode, piece_tokens=piece_tokens, on_piece=done.append)
    assert_close(out, losses(model, texts[0], mode), FLOAT32)
    size = max(1, piece_tokens // SEGMENT) * SEGMENT
    assert done == [*range(size, LENGTH, size), LENGTH]


@pytest.mark.parametrize("count", [2, SEGMENT, SEGMENT + 1, 2 * SEGMENT, 2 * SEGMENT + 1])
def test_a_text_may_end_anywhere(model, count):
    text = Text.from_blocks([book(count)], byte_tokenizer(), name="short")
    for mode in ("on", "off"):
        assert_close(losses(model, text, mode, piece_tokens=SEGMENT), one_by_one(model, text, mode), FLOAT32)


def test_the_model_has_its_memory_again(model, texts):
    before = losses(model, texts[0], "on")
    losses(model, texts[0], "off")
    assert torch.equal(losses(model, texts[0], "on"), before)


def test_the_memory_comes_into_play_after_the_first_segment(model, texts):
    """Its last position still knows no memory: the first token of the second segment is foretold alike."""
    on, off = (losses(model, texts[0], mode) for mode in ("on", "off"))
    assert_close(on[: SEGMENT + 1], off[: SEGMENT + 1], FLOAT32)
    assert (on[SEGMENT + 1 :] != off[SEGMENT + 1 :]).all()


def test_inside_the_first_segment_a_converted_model_is_its_base(texts):
    base, ids = base_model(), texts[0].token_ids.long()[: SEGMENT + 1]
    with torch.no_grad():
        logits = base(ids[None, :SEGMENT]).logits[0]
    expected = F.cross_entropy(logits.double(), ids[1:], reduction="none")
    for rule in RULES:
        twin = convert(base_model(), segment_size=SEGMENT, rule=rule).eval()
        for mode in ("on", "off"):
            assert_close(losses(twin, texts[0], mode)[1 : SEGMENT + 1], expected, FLOAT32)


def test_sums_of_segments(texts):
    text = Text.from_blocks(["A sea, a long ship: é"], byte_tokenizer(), name="ship")  # 22 bytes
    values = torch.arange(22, dtype=torch.float64) / 8
    assert segment_sums(text, values, 8) == {
        "tokens": [7, 8, 6],  # the first one is not scored
        "bytes": [7, 8, 6],
        "words": [2, 2, 1],  # nor is its word counted: sea, a | long, ship | é
        "nats": [28 / 8, 92 / 8, 111 / 8],
    }


def test_records(model, texts):
    records = measure(model, texts, ("on", "off"), Journal())
    assert [(each["file"], each["memory"]) for each in records] == [
        (text.name, mode) for text in texts for mode in ("on", "off")
    ]
    for record in records[:2]:
        segments = record["segments"]
        assert sum(segments["tokens"]) == LENGTH - 1 == record["tokens_read"] - 1
        assert sum(segments["nats"]) == pytest.approx(float(losses(model, texts[0], record["memory"]).sum()), abs=1e-4)
        assert len(segments["nats"]) == 8
        assert record["full_kv_bytes"] == LENGTH * 2 * 2 * 2 * 8 * 4  # K and V, layers, KV heads, head size, float32
        assert (record["segment_size"], record["rule"]) == (SEGMENT, "gated_delta")
        assert record["seconds"] > 0
    stream = ModelStream(model)
    stream.read(texts[0].token_ids.long()[None])
    assert {record["state_bytes"] for record in records} == {stream.nbytes}


class TestResuming:
    def test_nothing_is_read_twice(self, model, texts, tmp_path, monkeypatch):
        path, steps = tmp_path / "new" / "perplexity.jsonl", []
        first = measure(model, texts, ("on", "off"), Journal(path), on_piece=lambda *step: steps.append(step[:2]))
        lengths = [len(text.token_ids) for text in texts for _ in ("on", "off")]
        assert steps == [(sum(lengths[: n + 1]), sum(lengths)) for n in range(4)]
        assert [json.loads(line) for line in path.read_text().splitlines()] == first
        monkeypatch.setattr("infini_attention.evaluation.perplexity.task.token_losses", None)
        assert measure(model, texts, ("on", "off"), Journal(path)) == first
        assert measure(model, texts[1:], ("off",), Journal(path)) == first[3:]

    def test_what_is_missing_is_read(self, model, texts):
        journal, steps = Journal(), []
        measure(model, texts[:1], ("off",), journal)
        measure(model, texts, ("off",), journal, on_piece=lambda *step: steps.append(step[:2]))
        assert steps == [(len(texts[1].token_ids),) * 2]
        measure(infini_model(seed=1), texts[:1], ("off",), journal)
        assert len(journal.records) == 3

    def test_an_interrupt_keeps_what_is_finished(self, model, texts):
        def stop(done, of, nbytes):
            if done > LENGTH:
                raise KeyboardInterrupt

        journal = Journal()
        with pytest.raises(KeyboardInterrupt):
            measure(model, texts, ("on", "off"), journal, on_piece=stop)
        assert [(each["file"], each["memory"]) for each in journal.records] == [("text 0", "on")]


def test_the_same_text_twice_is_no_more_evidence(model, texts):
    again = Text("copy", texts[0].token_ids, texts[0].nbytes, texts[0].words)
    with pytest.raises(InputError, match="copy: is the same text as text 0"):
        measure(model, [*texts, again], ("on",), Journal())


def test_a_loss_that_is_no_number(texts):
    broken, journal = infini_model(), Journal()
    with torch.no_grad():
        broken.get_input_embeddings().weight[texts[0].token_ids[3]] = float("nan")
    with pytest.raises(ModelError, match=r"text 0: the loss of token \d+ is nan with memory on; try --dtype float32"):
        measure(broken, texts[:1], ("on",), journal)
    assert journal.records == []
