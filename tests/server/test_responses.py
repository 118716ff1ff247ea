"""/v1/responses: conversations that go on from any reply."""

import pytest

from infini_attention.sessions import Session
from server_helpers import events_of

RESPONSES = "/v1/responses"


def respond(client, text, **options):
    body = {"model": "tiny", "input": text, "temperature": 0, "max_output_tokens": 8} | options
    return client.post(RESPONSES, json=body)


def text_of(answer):
    return answer["output"][0]["content"][0]["text"]


def test_any_of_them_is_continued_and_branched(client, chatty):
    ref = Session(*chatty)
    first = respond(client, "Hi").json()
    assert text_of(first) == ref.chat("Hi", max_new_tokens=8).text
    branch = ref.fork()
    for message, session in (("So?", ref), ("And?", branch)):
        answer = respond(client, message, previous_response_id=first["id"]).json()
        before = session.stats.tokens_read
        assert text_of(answer) == session.chat(message, max_new_tokens=8).text
        assert answer["usage"]["input_tokens_details"]["cached_tokens"] == before
        assert answer["infini"]["tokens_seen"] == session.stats.tokens_read
        assert answer["previous_response_id"] == first["id"]


def test_a_response_is_kept_until_it_is_deleted(client):
    first = respond(client, "Hi", metadata={"a": "b"}).json()
    assert client.get(f"{RESPONSES}/{first['id']}").json() == first
    second = respond(client, "So?", previous_response_id=first["id"]).json()
    assert client.delete(f"{RESPONSES}/{first['id']}").json()["deleted"] is True
    assert client.get(f"{RESPONSES}/{first['id']}").status_code == 404
    assert respond(client, "So?", previous_response_id=first["id"]).status_code == 404
    assert respond(client, "So?", previous_response_id=second["id"]).status_code == 200


def test_one_that_is_not_to_be_kept(client):
    answer = respond(client, "Hi", store=False).json()
    assert answer["store"] is False
    assert client.get(f"{RESPONSES}/{answer['id']}").status_code == 404


def test_a_stream_has_the_same_end(client):
    whole = respond(client, "Hi").json()
    events = events_of(respond(client, "Hi", stream=True))
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    kinds = [event["type"].removeprefix("response.") for event in events]
    assert kinds[:4] == ["created", "in_progress", "output_item.added", "content_part.added"]
    assert kinds[-4:] == ["output_text.done", "content_part.done", "output_item.done", "incomplete"]
    assert set(kinds[4:-4]) == {"output_text.delta"}
    assert "".join(event["delta"] for event in events[4:-4]) == text_of(whole)
    last = events[-1]["response"]
    assert text_of(last) == text_of(whole)
    assert last["id"] == events[0]["response"]["id"]
    assert client.get(f"{RESPONSES}/{last['id']}").json() == last


def test_instructions_stay(client, chatty):
    first = respond(client, "Hi", instructions="Be brief.").json()
    told = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    ids = chatty[1].apply_chat_template(told, add_generation_prompt=True, return_dict=False)
    assert first["usage"]["input_tokens"] == len(ids)
    second = respond(client, "So?", instructions="Be brief.", previous_response_id=first["id"]).json()
    assert second["instructions"] == "Be brief."
    other = respond(client, "So?", instructions="Be long.", previous_response_id=first["id"])
    assert (other.status_code, other.json()["error"]["param"]) == (400, "instructions")


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"previous_response_id": "resp_none"}, 404),
        ({"tools": [{"type": "web_search"}]}, 422),
        ({"truncation": "auto"}, 422),
        ({"input": ""}, 422),
        ({"background": True}, 422),
        ({"model": "none"}, 404),
    ],
)
def test_what_is_refused(client, changes, status):
    assert respond(client, "Hi", **changes).status_code == status


def test_input_after_a_response_is_one_message(client):
    first = respond(client, [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}]).json()
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    refused = respond(client, messages, previous_response_id=first["id"])
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "input")


def test_the_oldest_make_room(serving, tmp_path):
    from infini_attention.server.settings import Limits

    with serving(tmp_path, limits=Limits(responses=2)) as client:
        ids = [respond(client, f"Message {i}").json()["id"] for i in range(3)]
        assert [client.get(f"{RESPONSES}/{id}").status_code for id in ids] == [404, 200, 200]
        service = client.app.state.service
        assert len(service.responses.sessions(owner="/responses")) == 2
    with serving(tmp_path) as client:  # another start of the server
        assert respond(client, "So?", previous_response_id=ids[2]).status_code == 200
