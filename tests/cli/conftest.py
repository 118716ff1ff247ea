"""Runs `infini` in this process, on tiny models."""

from typing import NamedTuple

import pytest


class Result(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def run_cli(capsys):
    """`run_cli(*args)` gives the exit code, stdout and stderr."""
    from infini_attention.cli import main

    def run_cli(*args):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main([str(arg) for arg in args])
        return Result(stopped.value.code, *capsys.readouterr())

    return run_cli


@pytest.fixture
def run_json(run_cli):
    """`run_json(*args)` gives the JSON object of a command that succeeds without a word on stderr."""
    import json

    def run_json(*args):
        result = run_cli(*args, "--json")
        assert (result.code, result.err) == (0, ""), result.err
        return json.loads(result.out)

    return run_json


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory):
    from tiny import infini_model, save_model

    return save_model(tmp_path_factory.mktemp("models") / "tiny", infini_model())


@pytest.fixture(scope="session")
def base_dir(tmp_path_factory):
    from tiny import base_model, save_model

    return save_model(tmp_path_factory.mktemp("models") / "base", base_model())


@pytest.fixture
def text(tmp_path):
    from tiny import book

    path = tmp_path / "text.txt"
    path.write_text(book(3000), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def chat_dir(tmp_path_factory):
    from chats import chat_model, chat_tokenizer
    from tiny import save_model

    return save_model(tmp_path_factory.mktemp("models") / "chatty", chat_model(), chat_tokenizer())


@pytest.fixture
def typed(monkeypatch):
    """`typed(text)` is what standard input holds."""
    import io
    import sys

    def typed(text):
        data = text if isinstance(text, bytes) else text.encode()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))

    return typed
