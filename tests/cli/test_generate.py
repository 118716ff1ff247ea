"""infini generate: from nothing, from a session, greedily and by chance."""

import pytest


@pytest.fixture
def generate(run_json, model_dir):
    def generate(*args):
        return run_json("generate", "-p", "It is", "-n", 12, *args, "-m", model_dir)

    return generate


@pytest.fixture
def session(run_json, model_dir, text, tmp_path):
    path = tmp_path / "session"
    run_json("read", text, "-m", model_dir, "-o", path)
    return path


def test_greedy_is_the_same_each_time(generate):
    first = generate()
    assert first["text"] == generate()["text"] != ""
    assert first["tokens_before"] == 0
    assert 5 < first["tokens_read"] <= 5 + 12


def test_as_text(run_cli, generate, model_dir):
    code, out, err = run_cli("generate", "-p", "It is", "-n", 12, "-m", model_dir)
    assert (code, out, err) == (0, generate()["text"] + "\n", "")


def test_from_a_session_which_stays_as_it_is(generate, session, text):
    saved = session.read_bytes()
    result = generate("--from", session)
    assert session.read_bytes() == saved
    assert result["tokens_before"] == text.stat().st_size
    assert result["text"] != generate()["text"]


def test_sampling_with_a_seed(generate):
    sampled = [generate("--temperature", 2, "--top-p", 0.9, "--seed", seed)["text"] for seed in (1, 1, 2)]
    assert sampled[0] == sampled[1] != sampled[2]


def test_a_prompt_from_standard_input(run_json, generate, model_dir, monkeypatch):
    import io
    import sys

    monkeypatch.setattr(sys, "stdin", io.StringIO("It is"))
    assert run_json("generate", "-p", "-", "-n", 12, "-m", model_dir)["text"] == generate()["text"]


def test_int8_weights_read_and_write(run_json, generate, model_dir, text, tmp_path):
    path = tmp_path / "session"
    read = run_json("read", text, "-m", model_dir, "--dtype", "int8", "-o", path)
    assert read["perplexity"] == pytest.approx(run_json("read", text, "-m", model_dir)["perplexity"], rel=0.05)
    written = generate("--from", path, "--dtype", "int8")
    assert written["tokens_before"] == read["tokens_read"]
    assert written["text"] == generate("--from", path, "--dtype", "int8")["text"] != ""
