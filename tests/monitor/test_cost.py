"""What looking costs, in CPU time: others on the machine do not count."""

import time

import pytest

from infini_attention.models import load_model, load_tokenizer
from infini_attention.monitor import Collector, collector
from infini_attention.sessions import Session
from tiny import book


@pytest.mark.slow
def test_less_than_three_percent_of_reading(monkeypatch):
    monkeypatch.setattr(collector.time, "perf_counter", time.thread_time)
    session = Session(load_model("builtin"), load_tokenizer("builtin"))
    session.read(book(5_000))  # what the first passes of a process do once
    with Collector(session.model) as seen:
        session.read(book(60_000))
    share = seen.cost / seen.marks[-1]["seconds"]
    print(f"{share:.2%} of {seen.marks[-1]['seconds']:.2f} s, {len(seen.marks)} looks")
    assert len(seen.marks) >= 3
    assert share < 0.03
