"""What the memory of a session is said to hold."""

import asyncio
import threading

import pytest
import torch

from helpers import tensors_of
from infini_attention.evaluation.inspection import Reading
from infini_attention.monitor import stream_figures
from infini_attention.monitor.states import HELD, SEEN
from infini_attention.server import jobs
from infini_attention.sessions import Session
from server_helpers import KEYS, bearer
from tiny import SEGMENT, book

SESSIONS = "/v1/sessions"


@pytest.fixture
def ref(chatty):
    """What the fixture `session` has read."""
    ref = Session(*chatty)
    ref.read(book(300), scored=False)
    return ref


def look(client, id, **query):
    answer = client.get(f"{SESSIONS}/{id}/memory", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_of_the_state_alone(client, session, ref):
    seen, figures = look(client, session), stream_figures(ref.cache.states)
    assert seen["state_bytes"] == ref.state_bytes == seen["metrics"]["memory_complexity"]["state_bytes"]
    assert seen["full_kv_bytes"] == ref.full_kv_bytes == 300 * seen["full_kv_bytes_per_token"]
    assert seen["metrics"]["compression"]["with_window"] == pytest.approx(ref.full_kv_bytes / ref.state_bytes)
    assert (seen["probe_tokens"], seen["segment_size"], seen["rule"]) == (0, SEGMENT, "gated_delta")
    for out, layer in zip(seen["layers"], figures["layers"], strict=True):
        assert {name: out[name] for name in HELD} == {name: layer[name] for name in HELD}
        assert [out[name] for name in SEEN] == [None] * len(SEEN)


def test_of_a_probe(client, session, ref):
    seen = look(client, session, probe=True)
    metrics = seen["metrics"]
    assert seen["probe_tokens"] == 4096
    assert metrics["sequence_length"]["tokens_seen"] == 300  # of the session, not of the fork
    assert metrics["memory_complexity"] == {"state_bytes": ref.state_bytes, "at_tokens": [300, 4352], "constant": True}
    assert metrics["attention_quality"]["asked"] == 4
    assert metrics["throughput"]["tokens_per_second"] > 0
    assert metrics["memory_update_efficiency"][0]["segments"] == 1
    for layer, held in zip(seen["layers"], look(client, session)["layers"], strict=True):
        assert all(layer[name] == held[name] for name in HELD)
        assert [len(layer["gate"]), len(layer["norm"])] == [4, 2]
        assert all(0 < gate < 1 for gate in layer["gate"])


def test_the_session_stays_as_it_is(client, session):
    live = client.app.state.service.shelf._live
    held, revision, _ = live[("", session)]
    before = [{name: tensor.clone() for name, tensor in tensors_of(state).items()} for state in held.cache.states]
    file = client.get(f"{SESSIONS}/{session}/download").content
    look(client, session, probe=True)
    assert live[("", session)][:2] == (held, revision)
    for state, tensors in zip(held.cache.states, before, strict=True):
        assert all(torch.equal(tensor, tensors[name]) for name, tensor in tensors_of(state).items())
    assert client.get(f"{SESSIONS}/{session}/download").content == file


def test_others_are_served_meanwhile(client, session, monkeypatch):
    """Two looks and a reply at once: the looks follow each other, the reply is what it is without them."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    attend, body = ALL_ATTENTION_FUNCTIONS["infini"], {"question": "Who?", "max_new_tokens": 40}
    alone = client.post(f"{SESSIONS}/{session}/ask", json=body).json()
    answers, order, steps_of = {}, [], jobs.look
    client.portal.call(client.app.state.service.texts.novel)  # else one would wait for it, and not for the other

    def logged(*arguments):
        order.append("begins")
        figures = yield from steps_of(*arguments)
        order.append("ends")
        return figures

    monkeypatch.setattr(jobs, "look", logged)

    def run(name, do):
        answers[name] = do()

    looks = {number: lambda: look(client, session, probe=True) for number in range(2)}
    asks = {"ask": lambda: client.post(f"{SESSIONS}/{session}/ask", json=body).json()}
    threads = [threading.Thread(target=run, args=pair) for pair in (looks | asks).items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers["ask"]["text"] == alone["text"]
    assert answers[0]["layers"] == answers[1]["layers"]
    assert order == ["begins", "ends"] * 2
    assert ALL_ATTENTION_FUNCTIONS["infini"] is attend


def test_a_client_that_goes_away(client, session):
    """The look ends, and leaves nothing behind on the model."""
    service = client.app.state.service

    async def given_up():
        stream, _ = await service.shelf.get("", session)
        steps = jobs.look(stream, Reading(await service.texts.novel(), 1 << 20))
        task = asyncio.create_task(service.engine.run(steps))
        await asyncio.sleep(0.2)
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled()

    assert client.portal.call(given_up)
    assert look(client, session)["layers"]
    assert not service.model.base_model._forward_hooks


@pytest.mark.parametrize(
    ("path", "status"), [("none/memory", 404), ("{empty}/memory", 400), ("none/memory?probe=8", 422)]
)
def test_what_is_refused(client, path, status):
    empty = client.post(SESSIONS, json={}).json()["id"]
    answer = client.get(f"{SESSIONS}/{path.format(empty=empty)}")
    assert answer.status_code == status, answer.text


def test_of_another_key(serving, tmp_path):
    with serving(tmp_path, keys=KEYS) as client:
        ann, bob = map(bearer, KEYS)
        client.post(SESSIONS, json={"id": "mine"}, headers=ann)
        client.post(f"{SESSIONS}/mine/text", json={"text": book(99)}, headers=ann)
        found = [client.get(f"{SESSIONS}/mine/memory", headers=headers).status_code for headers in (ann, bob, {})]
        assert found == [200, 404, 401]


def test_without_a_memory(serving, tmp_path, chatty):
    from chats import chat_model

    with serving(tmp_path, pair=(chat_model(rule="none"), chatty[1])) as client:
        client.post(SESSIONS, json={"id": "none"})
        client.post(f"{SESSIONS}/none/text", json={"text": book(99)})
        answer = client.get(f"{SESSIONS}/none/memory")
        assert (answer.status_code, "no memory to look at" in answer.json()["error"]["message"]) == (400, True)
