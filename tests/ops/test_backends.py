import sys

import pytest
import torch

from helpers import sample
from infini_attention import infini_attention
from infini_attention.errors import BackendError
from infini_attention.ops import reference, vectorized
from infini_attention.ops.backends import BACKENDS, Backend


def run(name):
    return infini_attention(**sample(), backend=name)[0]


@pytest.mark.parametrize(("name", "module"), [("auto", vectorized), ("torch", vectorized), ("reference", reference)])
def test_the_backend_that_was_asked_for_runs(name, module, monkeypatch):
    def forward(inputs):
        raise RuntimeError("this one")

    monkeypatch.setattr(module, "forward", forward)
    with pytest.raises(RuntimeError, match="this one"):
        run(name)


def test_an_unknown_backend_is_named_with_those_that_exist():
    with pytest.raises(BackendError, match="'auto' or one of torch, reference; got 'cuda'"):
        run("cuda")


def test_a_backend_that_cannot_run_says_why_and_nothing_takes_its_place(monkeypatch):
    monkeypatch.setitem(BACKENDS, "torch", Backend("no.such.module", lambda inputs: "the moon is in the wrong phase"))
    with pytest.raises(BackendError, match=r"'torch' cannot run here: the moon is in the wrong phase; use .*'auto'"):
        run("torch")
    assert torch.equal(run("auto"), run("reference"))


def test_a_backend_is_imported_only_when_it_runs(monkeypatch):
    monkeypatch.setitem(BACKENDS, "lazy", Backend("this", lambda inputs: None))
    monkeypatch.delitem(sys.modules, "this", raising=False)
    run("auto")
    assert "this" not in sys.modules
