"""A server on a socket, and clients that are not ours."""

import asyncio
import gc
import socket
import time

import httpx2
import openai
import pytest

from infini_attention.server.settings import Limits
from infini_attention.server.writing import Writer
from infini_attention.sessions import Session, Snapshot
from infini_attention.state import InfiniState
from server_helpers import KEYS, bearer, running
from tiny import book


@pytest.fixture(scope="module")
def live(endless, tmp_path_factory):
    limits = Limits(batch=4, queue=2)
    with running(endless, tmp_path_factory.mktemp("live"), keys=KEYS, limits=limits, keep_alive_seconds=0.2) as up:
        yield up


@pytest.fixture(scope="module")
def client(live):
    with openai.OpenAI(base_url=f"{live[0]}/v1", api_key=KEYS[0], max_retries=0) as client:
        yield client


HI = [{"role": "user", "content": "Hi"}]


class TestOpenAIClient:
    def test_models(self, client):
        assert [model.id for model in client.models.list()] == ["tiny"]
        assert client.models.retrieve("tiny").id == "tiny"

    def test_chat(self, client, endless):
        ref = Session(*endless).chat("Hi", max_new_tokens=9)
        done = client.chat.completions.create(model="tiny", messages=HI, max_tokens=9, temperature=0)
        assert (done.choices[0].message.content, done.usage.completion_tokens) == (ref.text, 9)
        assert done.infini["dropped"] == 0
        stream = client.chat.completions.create(
            model="tiny", messages=HI, max_tokens=9, temperature=0, stream=True, stream_options={"include_usage": True}
        )
        *chunks, last = stream
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == ref.text
        assert chunks[-1].choices[0].finish_reason == "length"
        assert last.usage.prompt_tokens_details.cached_tokens == last.usage.prompt_tokens

    def test_completions(self, client):
        done = client.completions.create(model="tiny", prompt="It was", max_tokens=9, temperature=0)
        stream = client.completions.create(model="tiny", prompt="It was", max_tokens=9, temperature=0, stream=True)
        assert "".join(chunk.choices[0].text for chunk in stream) == done.choices[0].text

    def test_several_prompts(self, client):
        options = {"model": "tiny", "max_tokens": 9, "temperature": 1, "seed": 3}
        prompts = ["It was", "Who", "So it is"]
        alone = [client.completions.create(prompt=prompt, **options) for prompt in prompts]
        done = client.completions.create(prompt=prompts, n=2, **options)
        assert [choice.index for choice in done.choices] == list(range(6))
        assert [choice.text for choice in done.choices[::2]] == [one.choices[0].text for one in alone]
        assert done.usage.prompt_tokens == sum(one.usage.prompt_tokens for one in alone)
        assert (done.usage.completion_tokens, done.infini["dropped"]) == (54, 0)
        stream = client.completions.create(
            prompt=prompts, n=2, stream=True, stream_options={"include_usage": True}, **options
        )
        *chunks, last = stream
        texts, ended = [""] * 6, []
        for chunk in chunks:
            (choice,) = chunk.choices
            texts[choice.index] += choice.text
            ended += [choice.index] if choice.finish_reason == "length" else []
        assert texts == [choice.text for choice in done.choices]
        assert sorted(ended) == list(range(6))
        assert (last.choices, last.usage.completion_tokens) == ([], 54)

    def test_responses(self, client, endless):
        ref = Session(*endless)
        options = {"model": "tiny", "max_output_tokens": 9, "temperature": 0}
        first = client.responses.create(input="Hi", **options)
        assert first.output_text == ref.chat("Hi", max_new_tokens=9).text
        second = client.responses.create(input="So?", previous_response_id=first.id, **options)
        before = ref.stats.tokens_read
        assert second.output_text == ref.chat("So?", max_new_tokens=9).text
        assert second.usage.input_tokens_details.cached_tokens == before
        assert client.responses.retrieve(second.id).output_text == second.output_text
        with pytest.raises(openai.NotFoundError, match=r"the input of response .* is not kept"):
            client.responses.input_items.list(second.id, limit=5)
        with pytest.raises(openai.BadRequestError, match="only responses in the background"):
            client.responses.cancel(second.id)
        with pytest.raises(openai.UnprocessableEntityError, match="stream"):
            client.responses.retrieve(second.id, stream=True)
        for call in (client.responses.input_items.list, client.responses.cancel, client.responses.delete):
            with pytest.raises(openai.NotFoundError, match="there is no response"):
                call("resp_none")
        with client.responses.stream(input="So?", previous_response_id=first.id, **options) as stream:
            events = list(stream)
        kinds = [event.type for event in events]
        said = [event.delta for event in events if event.type == "response.output_text.delta"]
        assert (kinds[0], kinds[-1]) == ("response.created", "response.incomplete")
        assert "".join(said) == second.output_text
        client.responses.delete(first.id)
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(first.id)

    @pytest.mark.parametrize(
        ("error", "changes"),
        [
            (openai.NotFoundError, {"model": "other"}),
            (openai.BadRequestError, {"max_tokens": 999_999}),
            (openai.UnprocessableEntityError, {"n": 3}),
            (openai.APIStatusError, {"messages": [{"role": "user", "content": "x" * 200_000}]}),
        ],
    )
    def test_errors(self, client, error, changes):
        with pytest.raises(error) as caught:
            client.chat.completions.create(**{"model": "tiny", "messages": HI} | changes)
        assert caught.value.body["message"]

    def test_a_wrong_key(self, client):
        with pytest.raises(openai.AuthenticationError):
            client.with_options(api_key="not one of those").models.list()


def metric(service, name):
    return service.metrics.registry.get_sample_value(f"infini_{name}")


def until(condition, seconds=10):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it has not come to pass"
        time.sleep(0.01)


LONG = {"model": "tiny", "messages": HI, "max_tokens": 4096, "temperature": 0, "stop": ["never said"]}


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_ends_its_work(live, stream):
    url, service = live
    before = metric(service, "disconnects_total") or 0
    timeout = httpx2.Timeout(10, read=0.5)
    request = {"json": LONG | {"stream": stream, "logprobs": None}, "headers": bearer(KEYS[0]), "timeout": timeout}
    if stream:
        with httpx2.stream("POST", f"{url}/v1/chat/completions", **request) as answer:
            pieces = answer.iter_bytes()  # which closes the connection when nobody holds it any more
            next(pieces)
            assert metric(service, "jobs_live") == 1
    else:
        with pytest.raises(httpx2.ReadTimeout):
            httpx2.post(f"{url}/v1/chat/completions", **request)
    until(lambda: metric(service, "requests_at_work") == 0)
    steps = metric(service, "step_seconds_count")
    time.sleep(0.1)
    assert metric(service, "step_seconds_count") - steps <= 1
    assert metric(service, "disconnects_total") == before + 1


def test_a_client_of_several_replies_goes_away(live):
    url, service = live
    body = {name: value for name, value in LONG.items() if name != "messages"}
    body |= {"prompt": ["Hi", "So"], "n": 3, "stream": True}
    with httpx2.stream("POST", f"{url}/v1/completions", json=body, headers=bearer(KEYS[0]), timeout=10) as answer:
        pieces = answer.iter_bytes()
        next(pieces)
        assert metric(service, "requests_at_work") == 6
    until(lambda: metric(service, "requests_at_work") == 0)
    steps = metric(service, "step_seconds_count")
    time.sleep(0.1)
    assert metric(service, "step_seconds_count") - steps <= 1


def test_a_reader_that_goes_away_leaves_the_session_as_it_was(live):
    url, service = live
    with httpx2.Client(base_url=url, headers=bearer(KEYS[0])) as http:
        id = http.post("/v1/sessions", json={}).json()["id"]
        with pytest.raises(httpx2.ReadTimeout):
            http.post(f"/v1/sessions/{id}/text", json={"text": book() * 2}, timeout=0.5)
        until(lambda: metric(service, "requests_at_work") == 0)
        assert http.get(f"/v1/sessions/{id}").json()["infini"]["tokens_seen"] == 0
        assert http.post(f"/v1/sessions/{id}/text", json={"text": "Short."}).status_code == 200


def test_too_many_are_sent_away(live):
    """Four at work and two that wait are all that there is room for."""
    url, service = live
    answers = []

    def ask():
        answers.append(httpx2.post(f"{url}/v1/chat/completions", json=LONG, headers=bearer(KEYS[0]), timeout=60))

    sockets = []
    for _ in range(6):  # clients that wait for ever
        body = httpx2.Request("POST", url, json=LONG).content
        connection = socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])))
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEYS[0]}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        sockets.append(connection)
    until(lambda: metric(service, "requests_at_work") == 6)
    ask()
    (answer,) = answers
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["error"]["code"] == "overloaded"
    assert metric(service, "jobs_live") <= 4
    for connection in sockets:
        connection.close()
    until(lambda: metric(service, "requests_at_work") == 0)


@pytest.mark.slow
def test_many_at_once_are_each_as_if_alone(chatty, tmp_path):
    """Sessions with texts of their own are asked all at the same time, again and again: no answer is another's, and
    nothing of it stays in memory."""
    texts = {f"s{number}": f"{number}: {book(30 + 13 * number)}" for number in range(20)}
    alone = {}
    for name, text in texts.items():
        session = Session(*chatty)
        session.read(text, scored=False)
        alone[name] = session.ask("Who?", max_new_tokens=10).text
    assert len(set(alone.values())) > 10

    async def rounds(url):
        async with httpx2.AsyncClient(base_url=f"{url}/v1", timeout=60) as http:
            for name, text in texts.items():
                await http.post("/sessions", json={"id": name})
                await http.post(f"/sessions/{name}/text", json={"text": text})
            for _ in range(4):
                body = {"question": "Who?", "max_new_tokens": 10}
                answers = await asyncio.gather(*(http.post(f"/sessions/{name}/ask", json=body) for name in texts))
                assert {name: answer.json()["text"] for name, answer in zip(texts, answers, strict=True)} == alone
                gc.collect()
                yield sum(type(each) in (Session, Snapshot, InfiniState, Writer) for each in gc.get_objects())

    async def counted(url):
        return [count async for count in rounds(url)]

    with running(chatty, tmp_path) as (url, service):
        first, *_, last = asyncio.run(counted(url))
        assert last <= first
        assert metric(service, "batch_size_sum") > 2 * metric(service, "batch_size_count")


def test_silence_is_filled():
    """Without a server: what is said while nothing happens."""
    from infini_attention.server.streams import Done, follow

    async def slow(emit):
        emit("begun")
        await asyncio.sleep(0.25)
        return "result"

    async def events():
        return [event async for event in follow(slow, 0.1)]

    assert asyncio.run(events()) == ["begun", None, None, Done("result")]
