"""Fifty servers on one store, each killed in the middle of its writes: nothing that they answered is lost."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import httpx2
import pytest

from infini_attention.sessions import SessionStore
from infini_attention.sessions.digest import TokenDigest
from processes import environment
from tiny import save_model

pytestmark = pytest.mark.slow
SERVERS, READERS = 50, ("ann", "bob")
PIECE = "Piece number {:05}. "

# For each line that it is told, a server in a process of its own, until that is killed: the imports are paid once.
NURSERY = """
import json, os, sys
from pathlib import Path
import torch
from infini_attention.models import load_model, load_tokenizer
from infini_attention.server.app import create_app
from infini_attention.server.running import listen, run
from infini_attention.server.settings import ServerSettings

folder, store = sys.argv[1:]
torch.set_num_threads(1)
model, tokenizer = load_model(folder), load_tokenizer(folder)

def serve():
    listening = listen("127.0.0.1", 0)
    about = {"url": f"http://127.0.0.1:{listening.getsockname()[1]}/v1", "pid": os.getpid()}
    app = create_app(model, tokenizer, ServerSettings(Path(store), "tiny"))
    run(app, listening, lambda: print(json.dumps(about), flush=True))

for line in sys.stdin:
    pid = os.fork()
    if not pid:
        try:
            serve()
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -9
"""


@pytest.fixture
def nursery(chatty, tmp_path):
    """`with nursery() as (http, kill)` is a client of a new server, which has to be killed."""
    model = save_model(tmp_path / "model", *chatty)
    process = subprocess.Popen(
        [sys.executable, "-c", NURSERY, str(model), str(tmp_path / "store")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )

    @contextmanager
    def server():
        print("start", file=process.stdin, flush=True)
        line = process.stdout.readline()
        assert line, process.stderr.read()
        about = json.loads(line)
        try:
            with httpx2.Client(base_url=about["url"], timeout=60) as http:
                yield http, lambda: os.kill(about["pid"], signal.SIGKILL)
        except BaseException:
            os.kill(about["pid"], signal.SIGKILL)
            raise

    yield server
    process.stdin.close()
    errors = process.stderr.read()
    process.stdout.close()
    process.stderr.close()
    assert process.wait(20) == 0, errors


class Client:
    """Writes until the server is gone, and remembers what it was answered."""

    def __init__(self):
        self.pieces = dict.fromkeys(READERS, 0)
        self.forks, self.responses = {}, {}

    def read(self, http, name):
        stored = http.get(f"/sessions/{name}").json()["infini"]["tokens_seen"] / len(PIECE.format(0))
        assert stored - self.pieces[name] in (0, 1)  # one may have been written and not yet answered
        self.pieces[name] = count = int(stored)  # which is now answered
        while True:
            answer = http.post(f"/sessions/{name}/text", json={"text": PIECE.format(count)})
            assert answer.status_code == 200, answer.text
            count += 1
            self.pieces[name] = count
            if count % 4 == 0:
                fork = http.post(f"/sessions/{name}/fork", json={}).json()
                self.forks[fork["id"]] = fork["infini"]["tokens_seen"]

    def talk(self, http, name):
        last = next(reversed(self.responses), None)
        while True:
            body = {"model": "tiny", "input": "Go on.", "max_output_tokens": 2, "previous_response_id": last}
            answer = http.post("/responses", json=body)
            assert answer.status_code == 200, answer.text
            last = answer.json()["id"]
            self.responses[last] = answer.json()

    @property
    def answers(self):
        return sum(self.pieces.values()) + len(self.forks) + len(self.responses)


def until_it_is_killed(work, *args, failed):
    try:
        work(*args)
    except httpx2.TransportError:
        pass
    except BaseException as error:
        failed.append(error)


def test_nothing_that_was_answered_is_lost(nursery, chatty, tmp_path):
    client, chance, failed = Client(), random.Random(0), []
    for number in range(SERVERS):
        with nursery() as (http, kill):
            if number == 0:
                for name in READERS:
                    assert http.post("/sessions", json={"id": name}).status_code == 201
            before, end = client.answers, time.monotonic() + 20
            jobs = [(client.read, http, name) for name in READERS] + [(client.talk, http, "")]
            threads = [threading.Thread(target=until_it_is_killed, args=job, kwargs={"failed": failed}) for job in jobs]
            for thread in threads:
                thread.start()
            while client.answers == before and time.monotonic() < end:
                time.sleep(0.001)
            time.sleep(chance.random() * 0.2)
            kill()
            for thread in threads:
                thread.join()
        assert failed == []
    print(f"{client.answers} answers of {SERVERS} servers that were killed")
    assert client.answers >= SERVERS

    with nursery() as (http, kill):
        for name, answer in client.responses.items():
            assert http.get(f"/responses/{name}").json() == answer
        threading.Timer(0.5, kill).start()
        until_it_is_killed(client.talk, http, "", failed=failed)
    assert failed == []
    store = SessionStore(tmp_path / "store")
    for entry in [*store.sessions(), *store.sessions(owner="/responses")]:
        store.verify(entry.name, owner=entry.owner)
    ids = chatty[1]("".join(map(PIECE.format, range(1 + max(client.pieces.values())))))["input_ids"]
    known = client.forks | {name: count * len(PIECE.format(0)) for name, count in client.pieces.items()}
    assert {entry.name for entry in store.sessions()} >= known.keys()
    for name, tokens in known.items():
        session = store.load(name, *chatty)
        assert session.stats.tokens_read - tokens in (0, 0 if name in client.forks else len(PIECE.format(0)))
        assert session.position.digest == TokenDigest().update(ids[: session.stats.tokens_read])
