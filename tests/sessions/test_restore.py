"""Saved, killed with kill -9, and restored in a new process: what comes next is equal to the last bit."""

import signal
import subprocess
import sys

import pytest
import torch

from infini_attention.models import load_model, load_tokenizer
from infini_attention.models.known import builtin_path
from infini_attention.sessions import Session
from processes import environment
from streams import greedy
from tiny import book, infini_model, save_model

START, COUNT = 3000, 64

# Reads, saves, says so, and goes on until it is killed; or restores, and writes down what comes next.
PROCESS = """
import sys
import torch
from infini_attention.models import load_model, load_tokenizer
from infini_attention.sessions import Session, SessionStore
from streams import greedy
from tiny import book

what, folder, where = sys.argv[1:]
torch.set_num_threads(1)
model, tokenizer = load_model(folder), load_tokenizer(folder)
store = SessionStore(where + "/store")
if what == "save":
    session = Session(model, tokenizer)
    session.read(book(START), chunk_size=700)
    session.save(where + "/file")
    store.save("stored", session)
    print("saved", flush=True)
    while True:
        session.generate("and", max_new_tokens=20)
        session.save(where + "/later")
        store.save("later", session)
torch.save(greedy(Session.load(where + "/file", model, tokenizer), COUNT), where + "/file.next")
torch.save(greedy(store.load("stored", model, tokenizer), COUNT), where + "/stored.next")
""".replace("START", str(START)).replace("COUNT", str(COUNT))


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["delta", "builtin"])
def test_the_next_tokens_and_their_logits(rule, tmp_path):
    folder = builtin_path() if rule == "builtin" else save_model(tmp_path / "model", infini_model(rule=rule))

    def start(what, **options):
        arguments = [sys.executable, "-c", PROCESS, what, str(folder), str(tmp_path)]
        return subprocess.Popen(arguments, env=environment(), text=True, **options)

    with start("save", stdout=subprocess.PIPE) as saving:
        assert saving.stdout.readline() == "saved\n"
        saving.send_signal(signal.SIGKILL)
    assert saving.returncode == -signal.SIGKILL
    assert start("restore").wait() == 0

    session = Session(load_model(folder), load_tokenizer(folder))
    session.read(book(START), chunk_size=700)
    ref_tokens, ref_logits = greedy(session, COUNT)
    for name in ("file", "stored"):
        tokens, logits = torch.load(tmp_path / f"{name}.next")
        assert tokens == ref_tokens
        assert torch.equal(logits, ref_logits)
