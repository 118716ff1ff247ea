"""What `infini inspect` finds in models and sessions."""

import pytest
import torch

from helpers import tensors_of
from infini_attention.data.haystack import Haystack
from infini_attention.errors import ConfigError
from infini_attention.evaluation.inspection import Reading, default_tokens, inspect, summarize
from infini_attention.monitor import Collector, stream_figures
from infini_attention.monitor.file import Recording, about_model
from infini_attention.monitor.states import HELD
from tiny import SEGMENT, book, byte_tokenizer, infini_model, new_session

TOKENS = 512


@pytest.fixture(scope="module")
def model():
    return infini_model()


@pytest.fixture(scope="module")
def reading():
    return Reading(Haystack.repeat(byte_tokenizer()), TOKENS)


def test_a_model_that_reads_for_the_first_time(model, reading):
    done = []
    result = inspect(model, byte_tokenizer(), reading, name="tiny", on_piece=done.append)
    assert (result["task"], result["model"], result["rule"]) == ("inspect", "tiny", "gated_delta")
    assert done[-1] == result["recall"]["tokens"] == result["metrics"]["sequence_length"]["tokens_seen"]
    assert result["metrics"]["memory_complexity"]["constant"] is True
    assert result["metrics"]["attention_quality"]["asked"] == result["recall"]["asked"] == 3
    assert len(result["marks"]) >= 8
    assert [layer["layer"] for layer in result["layers"]] == [0, 1]
    for layer in result["layers"]:
        assert all(layer[name] is not None for name in (*HELD, "gate", "memory_share", "write_strength", "decay"))
    assert result["haystack"] == {"name": "repeat", "digest": reading.haystack.digest}


def test_a_session_stays_as_it_is(model, reading):
    session = new_session(model)
    session.read(book(300))
    before = [tensors_of(state) for state in session.cache.states]
    result = inspect(model, byte_tokenizer(), reading, name="tiny", cache=session.cache)
    for state, tensors in zip(session.cache.states, before, strict=True):
        assert all(torch.equal(tensor, tensors[name]) for name, tensor in tensors_of(state).items())
    held = stream_figures(session.cache.states)
    for layer, kept in zip(result["layers"], held["layers"], strict=True):
        assert all(layer[name] == kept[name] for name in HELD)
        assert layer["gate"] is not None  # of the fork that read on
    assert result["metrics"]["sequence_length"]["tokens_seen"] == 300
    assert result["metrics"]["memory_complexity"]["at_tokens"] == [300, 300 + result["recall"]["tokens"]]


def test_a_session_without_reading(model):
    session = new_session(model)
    session.read(book(300))
    result = inspect(model, byte_tokenizer(), None, name="tiny", cache=session.cache)
    assert (result["recall"], result["marks"], result["retention"]) == (None, [], [])
    assert result["layers"] == stream_figures(session.cache.states)["layers"]


def test_nothing_to_look_at(model):
    with pytest.raises(ConfigError, match="give --tokens, or name a session"):
        inspect(model, byte_tokenizer(), None, name="tiny")


def test_live_and_offline_figures_agree(model):
    """What a collector says at the end of a stream is what `inspect` says of the session."""
    session = new_session(model)
    with Collector(model) as seen:
        session.read(book(400))
    live = summarize(Recording(about_model(model, "tiny"), seen.marks, seen.probes))
    offline = inspect(model, byte_tokenizer(), None, name="tiny", cache=session.cache)
    for name in ("sequence_length", "compression"):
        assert live["metrics"][name] == offline["metrics"][name]
    for mine, other in zip(live["layers"], offline["layers"], strict=True):
        assert all(mine[name] == other[name] for name in HELD)


def test_how_much_is_read_unless_asked_otherwise():
    assert (default_tokens(64), default_tokens(SEGMENT), default_tokens(1024)) == (4096, 4096, 8192)
