"""What a server says about itself."""

import re

from infini_attention.sessions import Session
from tiny import SEGMENT


def test_the_model(client):
    (model,) = client.get("/v1/models").json()["data"]
    assert (model["id"], model["segment_size"], model["rule"], model["chat"]) == ("tiny", SEGMENT, "gated_delta", True)
    assert client.get("/v1/models/tiny").json() == model
    answer = client.get("/v1/models/an/other")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


def test_health(client):
    assert client.get("/health").json()["status"] == "ok"
    engine = client.app.state.service.engine
    engine.drain()
    try:
        assert client.get("/health").json()["status"] == "stopping"
        assert client.post("/v1/completions", json={"model": "tiny", "prompt": "Hi"}).status_code == 503
    finally:
        engine.draining = False


def test_the_description_needs_no_network(client):
    page = client.get("/docs").text
    scripts = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert scripts
    assert all(client.get(script).status_code == 200 for script in scripts)
    assert "://" not in "".join(scripts)


def test_what_is_counted(client, chatty):
    def metrics():
        lines = (line.rpartition(" ") for line in client.get("/metrics").text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, _, value in lines}

    before = metrics()
    body = {"model": "tiny", "prompt": "Count this.", "max_tokens": 7, "temperature": 0}
    for _ in range(2):
        client.post("/v1/completions", json=body)
    client.get("/never/seen/before")
    after = metrics()
    grown = {name: value - before.get(name, 0) for name, value in after.items()}
    assert grown["infini_prompt_tokens_total"] == 22
    assert grown["infini_cached_tokens_total"] == 11
    assert grown["infini_written_tokens_total"] == 14
    assert grown['infini_requests_total{route="/v1/completions",status="200"}'] == 2
    assert grown["infini_first_token_seconds_count"] == 2
    assert after["infini_prefix_bytes"] >= Session(*chatty).state_bytes
    assert after["infini_requests_at_work"] == 0
    assert not any("never" in name for name in after)


def test_what_is_not_there(client):
    for method, path, status in (("get", "/v1/none", 404), ("post", "/health", 405)):
        answer = client.request(method, path)
        assert (answer.status_code, answer.json()["error"]["type"]) == (
            status,
            "not_found_error" if status == 404 else "invalid_request_error",
        )
