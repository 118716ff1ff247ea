"""Servers in this process, on tiny models."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@pytest.fixture(scope="session")
def chatty():
    """A model with a chat template, and its tokenizer."""
    from chats import chat_model, chat_tokenizer

    return chat_model(), chat_tokenizer()


@pytest.fixture(scope="session")
def endless():
    """One whose likeliest token is never the end of a reply."""
    import torch

    from chats import chat_model, chat_tokenizer

    model = chat_model()
    with torch.no_grad():
        model.lm_head.weight[256:] = 0
    return model, chat_tokenizer()


@pytest.fixture(scope="session")
def serving(chatty):
    """`with serving(folder, **settings) as client` is a client of a server that is up."""
    from starlette.testclient import TestClient

    from infini_attention.server.app import create_app
    from infini_attention.server.settings import ServerSettings

    @contextmanager
    def serving(folder, *, pair=chatty, raises=True, **settings) -> Iterator[TestClient]:
        app = create_app(*pair, ServerSettings(folder / "store", "tiny", **settings))
        with TestClient(app, raise_server_exceptions=raises) as client:
            yield client

    return serving


@pytest.fixture(scope="module")
def client(serving, tmp_path_factory):
    with serving(tmp_path_factory.mktemp("server")) as client:
        yield client


@pytest.fixture
def session(client):
    """The id of a session that has read a text."""
    from tiny import book

    id = client.post("/v1/sessions", json={}).json()["id"]
    assert client.post(f"/v1/sessions/{id}/text", json={"text": book(300)}).status_code == 200
    return id
