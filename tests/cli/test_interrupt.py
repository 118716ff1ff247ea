"""Ctrl-C and SIGTERM keep what was read; and reading more text takes no more memory."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial

import pytest

from infini_attention.models import convert
from infini_attention.sessions import read_header
from tiny import base_model, book, byte_level, save_model

INFINI = [sys.executable, "-c", "from infini_attention.cli import main; main()"]
ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}


def start(*args, **options):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # jobs in the background of a shell ignore Ctrl-C
    command = [*INFINI, *map(str, args), "--json"]
    return subprocess.Popen(command, env=ONE_THREAD, preexec_fn=heard, **pipes, **options)


def finish(process):
    """The JSON object and the exit code."""
    out, err = process.communicate(timeout=60)
    assert err == ""
    return json.loads(out), process.returncode


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_keeps_what_was_read(model_dir, tmp_path, run_json, number):
    text, session = tmp_path / "text.txt", tmp_path / "session"
    text.write_text(book(100_000), encoding="utf-8")
    command = ("read", text, "-m", model_dir, "-o", session)
    # The text comes through a pipe that stays open, so that the reader is surely at work when the signal comes.
    process = start("read", "-", *command[2:], stdin=subprocess.PIPE)
    os.write(process.stdin.fileno(), text.read_bytes()[:70_000])  # more than a pipe holds: returns once it reads
    time.sleep(0.5)
    process.send_signal(number)
    result, code = finish(process)
    assert code == 130
    assert result["interrupted"] is True
    assert 0 < result["tokens_read"] < text.stat().st_size
    assert read_header(session).stats.tokens_read == result["tokens_read"]

    rest = run_json(*command, "--resume")
    whole = run_json("read", text, "-m", model_dir)
    assert result["tokens_read"] + rest["tokens_read"] == whole["tokens_read"] == rest["tokens_seen"]
    for name in ("tokens_in_window", "tokens_compressed", "state_bytes", "dropped_tokens"):
        assert rest[name] == whole[name]
    assert rest["bits_per_byte"] == pytest.approx(whole["bits_per_byte"], rel=1e-6)


def test_before_anything_was_read_there_is_nothing_to_save(model_dir, tmp_path, run_cli, text, monkeypatch):
    def interrupt(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("infini_attention.sessions.Session.read_steps", interrupt)
    code, out, err = run_cli("read", text, "-m", model_dir, "-o", tmp_path / "session", "--json")
    assert (code, err) == (130, "")
    assert json.loads(out)["tokens_read"] == 0
    assert not (tmp_path / "session").exists()


def test_while_the_model_is_loaded(text, model_dir, run_cli, monkeypatch):
    def interrupt(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("infini_attention.models.load_model", interrupt)
    assert run_cli("read", text, "-m", model_dir) == (130, "", "")


@pytest.mark.slow
def test_a_text_16_times_as_long_takes_no_more_memory(tmp_path):
    """The shorter one is long enough for all that is taken once."""
    vocabulary = 2000
    tokenizer, small = byte_level(vocab_size=vocabulary), book()[: 3 << 15]
    model = convert(base_model(layers=1, width=16, vocabulary=vocabulary), segment_size=256)
    folder, peaks = save_model(tmp_path / "model", model, tokenizer), []
    for repeats in (4, 64):
        text = tmp_path / f"{repeats}.txt"
        text.write_text(small * repeats, encoding="utf-8")
        result, code = finish(start("read", text, "-m", folder, "--no-score", "--chunk-size", 4096))
        assert code == 0
        assert result["tokens_read"] > repeats * len(small) / 5
        peaks.append(result["peak_rss_bytes"])
    print(f"{peaks[0] / 1e6:.1f} MB, then {peaks[1] / 1e6:.1f} MB")
    assert peaks[1] - peaks[0] < 10e6  # the tokens alone would take 56 MB, the text 6 MB
