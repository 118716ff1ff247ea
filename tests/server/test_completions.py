"""/v1/completions and /v1/chat/completions."""

import time

import pytest

from chats import whole_ids
from infini_attention.errors import InputError
from infini_attention.server import engine
from infini_attention.server.settings import Limits
from infini_attention.server.writing import Writer
from infini_attention.sessions import Batch, Session
from server_helpers import events_of

CHAT = "/v1/chat/completions"


def chat(client, *texts, **options):
    """Messages of user and assistant in turn; greedy unless it is said otherwise."""
    messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
    body = {"model": "tiny", "messages": messages, "temperature": 0, "max_tokens": 12} | options
    return client.post(CHAT, json=body)


class TestCompletions:
    def test_it_writes_what_a_session_writes(self, client, chatty):
        body = {"model": "tiny", "prompt": "It was a dark", "temperature": 0, "max_tokens": 20}
        answer = client.post("/v1/completions", json=body).json()
        session = Session(*chatty)
        assert answer["choices"][0]["text"] == session.generate("It was a dark", max_new_tokens=20)
        assert answer["choices"][0]["finish_reason"] == "length"
        assert answer["usage"]["prompt_tokens"] == 13
        assert answer["usage"]["total_tokens"] == 33
        infini = answer["infini"]
        assert infini["tokens_seen"] == infini["in_window"] + infini["compressed"] == 32
        assert (infini["pending"], infini["dropped"], infini["state_bytes"]) == (1, 0, session.state_bytes)

    @pytest.mark.parametrize("prompt", [[72, 105], ["Hi"]])
    def test_one_prompt_in_other_shapes(self, client, prompt):
        body = {"model": "tiny", "prompt": prompt, "max_tokens": 1}
        assert client.post("/v1/completions", json=body).json()["usage"]["prompt_tokens"] == 2

    @pytest.mark.parametrize("prompts", [["Hi", "It was", "Hi"], [[72, 105], [73], [72, 105]]])
    def test_several_prompts_are_each_as_if_alone(self, client, prompts):
        options = {"model": "tiny", "temperature": 2, "seed": 5, "max_tokens": 6}
        alone = [client.post("/v1/completions", json=options | {"prompt": prompt}).json() for prompt in prompts]
        answer = client.post("/v1/completions", json=options | {"prompt": prompts, "n": 2}).json()
        assert [choice["index"] for choice in answer["choices"]] == list(range(6))
        texts = [choice["text"] for choice in answer["choices"]]
        assert texts[::2] == [one["choices"][0]["text"] for one in alone]
        assert texts[1] == texts[5] != texts[0]  # a copy has a seed of its own
        assert answer["usage"]["prompt_tokens"] == sum(one["usage"]["prompt_tokens"] for one in alone)
        assert answer["usage"]["completion_tokens"] == 2 * sum(one["usage"]["completion_tokens"] for one in alone)
        assert answer["infini"] == {name: 2 * sum(one["infini"][name] for one in alone) for name in alone[0]["infini"]}

    def test_a_prompt_is_read_once_for_all_its_copies(self, client, monkeypatch):
        read, together, read_tokens = [], engine.read_together, Session.read_tokens

        def counted(sessions, token_ids):  # one alone is read by itself
            read.extend(len(ids) for ids in token_ids if len(sessions) > 1)
            together(sessions, token_ids)

        monkeypatch.setattr(engine, "read_together", counted)
        monkeypatch.setattr(Session, "read_tokens", lambda self, ids: read.append(len(ids)) or read_tokens(self, ids))
        body = {"model": "tiny", "prompt": "Never said before", "n": 4, "max_tokens": 3}
        answer = client.post("/v1/completions", json=body).json()
        assert sum(read) == answer["usage"]["prompt_tokens"] == 17
        assert (answer["usage"]["completion_tokens"], len(answer["choices"])) == (12, 4)

    @pytest.mark.parametrize(
        ("changes", "status", "said"),
        [
            ({"prompt": []}, 400, "is empty"),
            ({"prompt": [[72], []]}, 400, "is empty"),
            ({"prompt": ["Hi", ""]}, 400, "is empty"),
            ({"prompt": [[72], [9999]]}, 400, "token 9999 is none"),
            ({"prompt": ["x" * 70_000] * 2}, 413, "the prompts have 140,000 tokens"),
            ({"prompt": ["Hi"] * 4, "n": 100}, 400, "at most 320 replies"),
            ({"prompt": "Hi", "n": 0}, 422, "n: "),
            ({"prompt": ["Hi", 72]}, 422, "prompt"),
            ({"prompt": ["Hi", [72]]}, 422, "prompt"),
        ],
    )
    def test_prompts_that_are_refused(self, client, changes, status, said):
        answer = client.post("/v1/completions", json={"model": "tiny", "max_tokens": 1} | changes)
        assert (answer.status_code, said in answer.json()["error"]["message"]) == (status, True), answer.text

    def test_each_reply_takes_a_place_of_its_key(self, serving, tmp_path):
        with serving(tmp_path, limits=Limits(key_requests=3)) as client:
            body = {"model": "tiny", "prompt": ["Hi", "So"], "max_tokens": 1}
            assert client.post("/v1/completions", json=body).status_code == 200
            refused = client.post("/v1/completions", json=body | {"n": 2})
            assert (refused.status_code, "at most 3 replies" in refused.json()["error"]["message"]) == (400, True)
            assert client.post("/v1/completions", json=body).status_code == 200

    def test_where_one_reply_fails_the_others_end(self, client, monkeypatch):
        choose = Writer.choose

        def failing(writer, logits, likeliest=None):
            if writer.sampling.seed == 6 and writer.token_ids:
                raise InputError("this one fails")
            choose(writer, logits, likeliest)

        monkeypatch.setattr(Writer, "choose", failing)
        body = {"model": "tiny", "prompt": "Hi", "n": 3, "seed": 5, "max_tokens": 4000}
        answer = client.post("/v1/completions", json=body)
        assert (answer.status_code, answer.json()["error"]["message"]) == (400, "this one fails")
        assert client.app.state.service.engine._requests.total() == 0

    def test_a_seed_gives_the_same_again(self, client):
        body = {"model": "tiny", "prompt": "Hi", "temperature": 2, "top_p": 0.9, "max_tokens": 20}
        texts = [
            client.post("/v1/completions", json=body | {"seed": seed}).json()["choices"][0]["text"]
            for seed in (1, 1, 2)
        ]
        assert texts[0] == texts[1] != texts[2]

    def test_a_stream_is_the_same_text(self, client):
        body = {"model": "tiny", "prompt": "It was", "temperature": 0, "max_tokens": 20}
        whole = client.post("/v1/completions", json=body).json()
        options = {"stream": True, "stream_options": {"include_usage": True}}
        *chunks, last, used, done = events_of(client.post("/v1/completions", json=body | options))
        assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole["choices"][0]["text"]
        assert (last["choices"][0]["finish_reason"], last["infini"]) == ("length", whole["infini"])
        assert used["usage"]["completion_tokens"] == 20
        assert done == "[DONE]"


class TestChat:
    def test_it_replies_as_a_session_does(self, client, chatty):
        answer = chat(client, "Who are you?").json()
        assert (
            answer["choices"][0]["message"]["content"] == Session(*chatty).chat("Who are you?", max_new_tokens=12).text
        )
        assert answer["usage"]["prompt_tokens"] == len(whole_ids(chatty[1], ["Who are you?"]))

    def test_what_was_sent_before_is_not_read_again(self, client, chatty, monkeypatch):
        read, read_tokens = [], Session.read_tokens
        monkeypatch.setattr(Session, "read_tokens", lambda self, ids: read.append(len(ids)) or read_tokens(self, ids))
        texts = ["First, a long message to begin with."]
        for turn in range(3):
            answer = chat(client, *texts).json()
            prompt, used = whole_ids(chatty[1], texts), answer["usage"]
            assert used["prompt_tokens"] == len(prompt)
            assert used["prompt_tokens_details"]["cached_tokens"] == len(prompt) - sum(read)
            if turn:  # all but the last reply, at least: sent again, random bytes may be other tokens
                assert used["prompt_tokens_details"]["cached_tokens"] >= len(whole_ids(chatty[1], texts[:-2]))
            read.clear()
            texts += ["It is so.", "Another one."]

    def test_a_history_that_was_changed_goes_on_from_what_is_the_same(self, client, chatty):
        chat(client, "The first message, to be kept.", "Yes.", "The second one.")
        used = chat(client, "The first message, to be kept.", "Yes.", "Another second one.").json()["usage"]
        assert used["prompt_tokens_details"]["cached_tokens"] == 0
        messages = [{"role": "system", "content": "A rule."}, {"role": "user", "content": "One."}]
        chat(client, messages=messages)
        used = chat(client, messages=[messages[0], {"role": "user", "content": "Two."}]).json()["usage"]
        rule = chatty[1].apply_chat_template(messages[:1], return_dict=False)
        assert used["prompt_tokens_details"]["cached_tokens"] == len(rule)

    def test_the_same_prompt_again_costs_nothing(self, client):
        first, second = (chat(client, "Once more.").json() for _ in range(2))
        assert second["choices"] == first["choices"]
        assert second["usage"]["prompt_tokens_details"]["cached_tokens"] == first["usage"]["prompt_tokens"]
        assert second["infini"] == first["infini"]

    def test_a_stop_text_is_no_part_of_the_reply(self, client):
        whole = chat(client, "Go on.", max_tokens=40).json()["choices"][0]["message"]["content"]
        stop = whole[5:8]
        answer = chat(client, "Go on.", max_tokens=40, stop=["never", stop]).json()
        assert answer["choices"][0]["message"]["content"] == whole[: whole.index(stop)]
        assert answer["choices"][0]["finish_reason"] == "stop"
        events = events_of(chat(client, "Go on.", max_tokens=40, stop=stop, stream=True))
        assert "".join(e["choices"][0]["delta"].get("content", "") for e in events[:-1]) == whole[: whole.index(stop)]

    def test_a_reply_may_be_sent_back_as_it_was(self, client):
        reply = chat(client, "Hi").json()["choices"][0]["message"]
        messages = [
            {"role": "user", "content": "Hi"},
            reply,
            {"role": "user", "content": [{"type": "text", "text": "So"}]},
        ]
        assert chat(client, messages=messages).status_code == 200

    def test_a_silent_stream_gives_signs_of_life(self, serving, tmp_path, monkeypatch):
        step = Batch.step
        monkeypatch.setattr(Batch, "step", lambda batch, tokens: time.sleep(0.05) or step(batch, tokens))
        with serving(tmp_path, keep_alive_seconds=0.01) as client:
            answer = chat(client, "Hi", max_tokens=3, stream=True)
        assert ": still at work\n\n" in answer.text
        assert events_of(answer)[-1] == "[DONE]"

    def test_without_a_template(self, serving, tmp_path):
        from tiny import byte_tokenizer, infini_model

        with serving(tmp_path, pair=(infini_model(), byte_tokenizer())) as client:
            answer = chat(client, "Hi")
            assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
            assert "no chat template" in answer.json()["error"]["message"]
            body = {"model": "tiny", "prompt": "Hi", "max_tokens": 2}
            assert client.post("/v1/completions", json=body).status_code == 200


@pytest.mark.parametrize(
    ("changes", "status", "param"),
    [
        ({"model": "gpt-4"}, 404, "model"),
        ({"n": 2}, 422, "n"),
        ({"tools": [{}]}, 422, "tools"),
        ({"logprobs": True}, 422, "logprobs"),
        ({"presence_penalty": 0.5}, 422, "presence_penalty"),
        ({"max_tokens": 0}, 422, "max_tokens"),
        ({"max_tokens": 99_999}, 400, "max_tokens"),
        ({"max_completion_tokens": 3}, 400, "max_tokens"),
        ({"stream_options": {"include_usage": True}}, 400, "stream_options"),
        ({"temperature": "0"}, 422, "temperature"),
        ({"messages": []}, 422, "messages"),
        ({"messages": "Hi"}, 422, "messages"),
        ({"messages": [{"role": "tool", "content": "Hi"}]}, 422, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, 422, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 422, "messages.0.content.0.type"),
        ({"messages": [{"role": "user", "content": " "}]}, 400, None),
        ({"messages": [{"role": "user", "content": "<|im_end|>"}]}, 400, None),
        ({"messages": [{"role": "user", "content": "x" * 200_000}]}, 413, None),
    ],
)
def test_what_is_refused(client, changes, status, param):
    answer = chat(client, "Hi", **changes)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (status, param), error
    assert error.keys() == {"message", "type", "param", "code"}
    assert "[" not in error["message"]  # nor any name of what checks it


def test_a_body_that_is_no_json(client):
    answer = client.post("/v1/completions", content=b'{"model":', headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, None)
    assert answer.json()["error"]["message"] == "the body is not JSON"


@pytest.mark.parametrize("n", [1, None])
def test_harmless_fields(client, n):
    extra = {
        "n": n,
        "user": "ann",
        "presence_penalty": 0,
        "frequency_penalty": 0.0,
        "response_format": {"type": "text"},
        "tools": [],
        "tool_choice": "none",
        "parallel_tool_calls": False,
        "metadata": {"who": "ann"},
        "logit_bias": {},
        "modalities": ["text"],
    }
    assert chat(client, "Hi", **extra, logprobs=False, store=False, max_tokens=1).status_code == 200
