"""Nothing is timed while something else runs."""

import os

import pytest

from infini_attention.benchmark import machine
from infini_attention.errors import ConfigError


@pytest.fixture(autouse=True)
def two_cpus(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)


@pytest.mark.parametrize(("load", "busy"), [(0.0, False), (0.5, False), (0.51, True), (4.0, True)])
def test_a_busy_machine_is_refused_unless_forced(monkeypatch, load, busy):
    monkeypatch.setattr(machine, "load", lambda: load)
    assert machine.is_busy(load) is busy
    assert machine.check_idle(force=True) == load
    if busy:
        with pytest.raises(ConfigError, match=rf"load of {load:.2f} on 2 CPUs, .* at most 0.50; .*--force"):
            machine.check_idle(force=False)
    else:
        assert machine.check_idle(force=False) == load


def test_the_processor_has_a_name():
    assert machine.processor("cpu")
