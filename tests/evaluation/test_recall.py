"""Reading a sample as a stream and comparing its answers: with readers that know all or nothing, and a real model."""

import random
from dataclasses import replace

import pytest
import torch

from evaluation.readers import Ignorant, Oracle
from helpers import FLOAT32, assert_close
from infini_attention.data.recall import RecallSample, named_keys, passkey
from infini_attention.errors import ConfigError
from infini_attention.evaluation.recall import recall
from infini_attention.evaluation.stream import ModelStream, subject_of
from tiny import SEGMENT, infini_model


@pytest.fixture(scope="module")
def model():
    return infini_model()


@pytest.fixture
def samples(tokenizer, filler):
    return [passkey(tokenizer, 700, random.Random(n), filler, depth=n / 4) for n in range(4)]


@pytest.fixture
def quiz(tokenizer, filler):
    return named_keys(tokenizer, 2000, random.Random(0), filler, keys=6, questions=4, rewritten=6)


@pytest.mark.parametrize("piece_size", [64, 128, 4096])
def test_one_who_sees_everything_is_right(samples, piece_size):
    outcome = recall(Oracle(), samples, piece_size=piece_size)
    assert outcome.hits.tolist() == [[True]] * 4
    assert outcome.nbytes == 1000


def test_one_who_sees_nothing_is_wrong(samples):
    assert not recall(Ignorant(), samples, piece_size=64).hits.any()


def test_the_latest_key_wins(quiz):
    assert len(quiz.needles) == 12
    assert recall(Oracle(), [quiz], piece_size=256).hits.all()


def test_with_memory_off_only_the_unfinished_segment_is_known(samples, tokenizer, filler):
    reader = Oracle()
    assert not recall(reader, samples, memory=False, piece_size=64).hits.any()
    [(question, _)] = samples[0].questions
    assert [entry for entry in reader.log if entry[0] == "forget"] == [("forget", question)]
    near = passkey(tokenizer, 700, random.Random(5), filler, depth=1.0)
    assert near.outside_window(256) == [False]
    assert recall(Oracle(256), [near], memory=False, piece_size=256).hits.all()


def test_memory_off_is_off_before_every_question(quiz):
    reader = Oracle()
    recall(reader, [quiz], memory=False, piece_size=256)
    assert [where for what, where in (e for e in reader.log if e[0] == "forget")] == [q for q, _ in quiz.questions]


def test_every_token_is_read_once_and_in_order(quiz):
    reader = Oracle()
    recall(reader, [quiz], piece_size=100)
    assert reader.rows == [bytes(quiz.token_ids[: quiz.answers[-1][0]].tolist())]


def test_a_mistake_spoils_no_later_question(quiz):
    class WrongOnce(Oracle):
        def guess(self, row):
            return 0 if row.count(b"What is") == 1 else super().guess(row)

    assert recall(WrongOnce(), [quiz], piece_size=256).hits.tolist() == [[False, True, True, True]]


def test_no_needle_no_answer(tokenizer, filler):
    sample = passkey(tokenizer, 700, random.Random(0), filler, with_needle=False)
    assert not recall(Oracle(), [sample], piece_size=256).hits.any()
    assert sample.outside_window(64) == [False]


def test_samples_must_fit_together(samples, quiz):
    with pytest.raises(ConfigError, match="at the same places"):
        recall(Oracle(), [samples[0], quiz], piece_size=64)


@pytest.mark.parametrize(
    ("question", "outside"), [((191, 200), False), ((192, 200), True), ((128, 200), False), ((255, 300), True)]
)
def test_outside_the_window(question, outside):
    """A needle that ends at 129: from the segment that begins at 192 on, nobody sees it."""
    sample = RecallSample(torch.zeros(400), (), ((100, 129),), ("",), (question,), ((100, 129),))
    assert sample.outside_window(64) == [outside]
    assert replace(sample, sources=((100, 128),)).outside_window(64) == [question[0] >= 128]


class TestARealModel:
    def test_what_it_writes_is_what_is_compared(self, model, samples):
        """The model's own greedy answer counts as right, and one other token makes it wrong."""
        sample = samples[0]
        [(start, stop)] = sample.answers
        written = model.generate(
            sample.token_ids[None, :start], max_new_tokens=stop - start, min_new_tokens=stop - start, do_sample=False
        )[0]
        for piece_size in (SEGMENT, 1024):
            own = replace(sample, token_ids=written)
            assert recall(ModelStream(model), [own], piece_size=piece_size).hits.all()
            for place in range(start, stop):
                other = written.clone()
                other[place] = (other[place] + 1) % 256
                other = replace(sample, token_ids=other)
                assert not recall(ModelStream(model), [other], piece_size=piece_size).hits.any()

    def test_pieces_and_rows_change_nothing(self, model, samples):
        ids = torch.stack([sample.token_ids for sample in samples])
        whole = ModelStream(model).read(ids)
        stream, alone = ModelStream(model), ModelStream(model)
        for piece in ids.split(48, 1):
            logits = stream.read(piece)
        assert_close(logits, whole, FLOAT32)
        assert_close(alone.read(ids[2:3]), whole[2:3], FLOAT32)
        assert stream.nbytes == len(ids) * alone.nbytes
        assert_close(whole, model(ids).logits[:, -1].detach(), FLOAT32)

    def test_a_fork_leaves_the_stream_as_it_was(self, model, samples):
        ids = samples[0].token_ids[None]
        stream = ModelStream(model)
        stream.read(ids[:, :300])
        fork = stream.fork()
        fork.read(ids[:, 100:200])
        assert_close(stream.read(ids[:, 300:]), ModelStream(model).read(ids), FLOAT32)

    def test_forgetting_empties_every_layer(self, model, samples):
        stream = ModelStream(model)
        stream.read(samples[0].token_ids[None, :301])
        window = stream.cache.states[0].keys.clone()
        assert all(state.committed.matrix.any() for state in stream.cache.states)
        stream.forget()
        for state in stream.cache.states:
            assert not state.committed.matrix.any()
            assert not state.running.matrix.any()
        assert torch.equal(stream.cache.states[0].keys, window)

    def test_as_a_subject(self, model):
        subject = subject_of(model)
        assert subject.segment_size == subject.about["segment_size"] == SEGMENT
        assert (subject.about["rule"], len(subject.about["fingerprint"])) == ("gated_delta", 64)
        assert subject.open_stream().cache.tokens_seen is None

    @pytest.mark.parametrize(
        ("noted", "told"), [({}, None), ({"trained_length": 96}, 96), ({"trained_length": "?"}, None)]
    )
    def test_how_long_its_training_samples_were(self, noted, told):
        model = infini_model()
        model.config.update(noted)
        assert subject_of(model).about["trained_length"] == told
