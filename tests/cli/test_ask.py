"""infini ask: answers on stdout, and a session file that stays as it is."""

import json

import pytest

QUESTION = "Who is Catherine?"


@pytest.fixture(params=["plain", "template"])
def folder(request, model_dir, chat_dir):
    return model_dir if request.param == "plain" else chat_dir


@pytest.fixture
def session(run_json, folder, text, tmp_path):
    path = tmp_path / "session"
    run_json("read", text, "-m", folder, "-o", path)
    return path


def objects(result):
    """The JSON objects of a command that succeeds without a word on stderr."""
    assert (result.code, result.err) == (0, ""), result.err
    return [json.loads(line) for line in result.out.splitlines()]


def same(out, ref):
    return out | {"seconds": 0} == ref | {"seconds": 0}


def test_an_answer_and_its_figures(run_json, run_cli, session, text, folder):
    from infini_attention.models import load_model, load_tokenizer
    from infini_attention.sessions import Session

    saved = session.read_bytes()
    result = run_json("ask", session, QUESTION, "-n", 20)
    reply = Session.load(session, load_model(folder), load_tokenizer(folder)).ask(QUESTION, max_new_tokens=20)
    assert (result["question"], result["answer"]) == (QUESTION, reply.text)
    assert (result["new_tokens"], result["finished"]) == (len(reply.token_ids), reply.finished)
    assert (result["tokens_read"], result["dropped_tokens"]) == (text.stat().st_size, 0)
    assert result["state_bytes"] > 0
    assert result["seconds"] > 0
    assert run_cli("ask", session, QUESTION, "-n", 20) == (0, reply.text + "\n", "")
    assert session.read_bytes() == saved


def test_several_questions_from_the_same_state(run_json, run_cli, session, typed):
    typed(f"{QUESTION}\n\n  Who is Bob?\n{QUESTION}")
    results = objects(run_cli("ask", session, "-", "-n", 12, "--json"))
    assert [result["question"] for result in results] == [QUESTION, "  Who is Bob?", QUESTION]
    assert same(results[0], results[2])
    for result in results[:2]:
        assert same(result, run_json("ask", session, result["question"], "-n", 12))


def test_sampling_with_a_seed_does_not_hang_on_the_order(run_json, run_cli, session, typed):
    options = ("-n", 12, "--temperature", 2, "--top-p", 0.9, "--json", "--seed")
    typed(f"{QUESTION}\nWho?\n{QUESTION}")
    first, _, third = objects(run_cli("ask", session, "-", *options, 1))
    assert same(first, third)
    assert not same(first, objects(run_cli("ask", session, QUESTION, *options, 2))[0])


def test_the_model_may_lie_elsewhere(run_json, session, folder, tmp_path):
    (tmp_path / "moved").symlink_to(folder)
    assert same(
        run_json("ask", session, QUESTION, "-n", 9, "-m", tmp_path / "moved"),
        run_json("ask", session, QUESTION, "-n", 9),
    )


@pytest.mark.parametrize(
    ("question", "stdin", "words"),
    [
        ("", "", "the question is empty; give at least one character"),
        (" ", "", "the question is empty"),
        ("a\udcff", "", "the question is not Unicode text"),
        ("-", "", "standard input: holds no question; expected one per line"),
        ("-", "\n \n", "standard input: holds no question"),
        ("-", b"\xff\n", "standard input: not utf-8 text"),
    ],
)
def test_mistakes(run_cli, session, typed, question, stdin, words):
    typed(stdin)
    code, out, err = run_cli("ask", session, question)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert words in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("missing Who?", "missing: no such session file"),
        ("", "Missing argument"),
        ("missing", "Missing argument"),
        ("missing Who? -n 0", "--max-new-tokens"),
        ("missing Who? --top-p 0", "--top-p must be above 0"),
    ],
)
def test_mistakes_before_anything_is_loaded(run_cli, arguments, words):
    code, out, err = run_cli("ask", *arguments.split())
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert words in err


def test_another_model(run_cli, run_json, text, model_dir, chat_dir, tmp_path):
    run_json("read", text, "-m", model_dir, "-o", tmp_path / "session")
    code, out, err = run_cli("ask", tmp_path / "session", QUESTION, "-m", chat_dir)
    assert (code, out) == (2, "")
    assert "was made with another model" in err


def test_control_tokens(run_cli, run_json, text, chat_dir, tmp_path):
    run_json("read", text, "-m", chat_dir, "-o", tmp_path / "session")
    code, out, err = run_cli("ask", tmp_path / "session", "What is <|im_end|>?")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "the question contains <|im_end|>, a control token" in err
