"""infini serve: what it refuses to begin with, and what it tells when it has begun."""

import json
import os
import signal
import sys
import threading

import pytest


@pytest.mark.parametrize(
    "arguments",
    [
        ["--host", "0.0.0.0"],
        ["--host", "::"],
        ["--api-key-file", "/no/such/file"],
        ["--host", "no.such.host.invalid"],
        ["--queue", "-1"],
        ["-m", "/no/such/model"],
    ],
)
def test_mistakes(run_cli, monkeypatch, tmp_path, arguments):
    monkeypatch.delenv("INFINI_API_KEYS", raising=False)
    code, out, err = run_cli("serve", "--store", tmp_path / "store", "--port", 0, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert not (tmp_path / "store").exists()


def test_without_the_extra(run_cli, monkeypatch, tmp_path):
    monkeypatch.delitem(sys.modules, "infini_attention.server.running", raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    code, _, err = run_cli("serve", "--store", tmp_path / "store")
    assert (code, "infini-attention[serve]" in err) == (2, True)


def test_a_port_that_is_taken(run_cli, tmp_path):
    from infini_attention.server.running import listen

    with listen("127.0.0.1", 0) as taken:
        taken.listen()
        code, _, err = run_cli("serve", "--store", tmp_path, "--port", taken.getsockname()[1])
    assert (code, "choose another --port" in err) == (2, True)


def test_until_it_is_told_to_stop(run_cli, model_dir, tmp_path, monkeypatch):
    import httpx2

    from infini_attention.cli.shared import common

    seen, emit = {}, common.emit

    def started(about, **options):
        emit(about, **options)

        def visit():
            seen.update(httpx2.get(f"{about['url']}/health").json())
            os.kill(os.getpid(), signal.SIGTERM)

        threading.Thread(target=visit).start()

    monkeypatch.setattr(common, "emit", started)
    code, out, _ = run_cli("serve", "-m", model_dir, "--store", tmp_path / "store", "--port", 0, "--json")
    about = json.loads(out)
    assert code == 0
    assert about.keys() == {"url", "model", "store", "keys"}
    assert (about["model"], seen["status"], seen["model"]) == ("tiny", "ok", "tiny")
    assert (tmp_path / "store" / "index.sqlite").exists()
