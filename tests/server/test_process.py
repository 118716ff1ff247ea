"""A server in a process of its own, told to stop, and killed."""

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress

import httpx2
import pytest

from infini_attention.sessions import SessionStore
from tiny import book, save_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def chat_dir(endless, tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("models") / "talker", *endless)


@contextmanager
def serving(model, store, *arguments):
    """`with serving(...) as (process, http)`."""
    command = [sys.executable, "-m", "infini_attention.cli", "serve", "-m", str(model), "--store", str(store)]
    command += ["--port", "0", "--json", *arguments]
    environment = os.environ | {"INFINI_API_KEYS": "", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        line = process.stdout.readline()
        assert line, process.stderr.read()
        with httpx2.Client(base_url=json.loads(line)["url"], timeout=60) as http:
            yield process, http
    finally:
        process.kill()
        process.communicate()


def test_told_to_stop_and_killed(endless, chat_dir, tmp_path):
    store = tmp_path / "store"
    with serving(chat_dir, store, "--grace", "2") as (process, http):
        for name in ("read", "talk"):
            http.post("/v1/sessions", json={"id": name})
        http.post("/v1/sessions/talk/text", json={"text": "A beginning."})
        body = {"model": "talker", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4096}
        body |= {"stream": True, "temperature": 0}
        begun, gone = threading.Event(), threading.Event()

        def wait_for_ever():
            with suppress(httpx2.TransportError), http.stream("POST", "/v1/chat/completions", json=body) as answer:
                for line in answer.iter_lines():
                    begun.set()
                    assert "DONE" not in line
            gone.set()

        threading.Thread(target=wait_for_ever).start()
        assert begun.wait(20)
        # A book that is being read when it is told to stop is kept as far as it was read.
        with http.stream("POST", "/v1/sessions/read/text", json={"text": book() * 3, "stream": True}) as answer:
            lines = answer.iter_lines()
            assert "session.progress" in next(lines)
            process.send_signal(signal.SIGTERM)
            last = [json.loads(line[6:]) for line in lines if line.startswith("data: {")][-1]
        assert (last["object"], last["complete"]) == ("session.read", False)
        assert process.wait(20) == 0
        assert gone.wait(5)  # a reply that does not end within the time of grace is cut off
    read = last["infini"]["tokens_seen"]
    assert 0 < read < 3 * len(book())

    acknowledged = {}
    with serving(chat_dir, store) as (process, http):
        assert http.get("/v1/sessions/read").json()["infini"]["tokens_seen"] == read
        threading.Timer(1.0, process.kill).start()

        def write(name):
            with pytest.raises(httpx2.TransportError):
                while True:
                    answer = http.post(f"/v1/sessions/{name}/text", json={"text": "More of it."}).json()
                    acknowledged[name] = answer["infini"]["tokens_seen"]

        writers = [threading.Thread(target=write, args=(name,)) for name in ("read", "talk")]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        assert process.wait(10) == -signal.SIGKILL

    assert set(acknowledged) == {"read", "talk"}
    kept = SessionStore(store)
    for name, tokens in acknowledged.items():
        stored = kept.verify(name).place.tokens
        assert stored - tokens in (0, len("More of it."))  # one may have been written and not yet acknowledged
        assert kept.load(name, *endless).stats.tokens_read == stored
