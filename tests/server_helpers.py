"""What tests of the server share."""

import json
import threading
from contextlib import contextmanager

KEYS = ("key-of-ann-0123456789", "key-of-bob-0123456789")


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def events_of(response) -> list:
    """The data of a stream's events, parsed; the last one of OpenAI's is a string."""
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


@contextmanager
def running(pair, folder, **settings):
    """`with running(...) as (url, service)`: a server in a thread of this process."""
    import uvicorn

    from infini_attention.server.app import create_app
    from infini_attention.server.running import _Server, listen
    from infini_attention.server.settings import ServerSettings

    app = create_app(*pair, ServerSettings(folder / "store", "tiny", **settings))
    listening, started = listen("127.0.0.1", 0), threading.Event()
    config = uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=2)
    server = _Server(config, app.state.service, started.set)
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    assert started.wait(30)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", app.state.service
    finally:
        server.should_exit = True
        thread.join()
        listening.close()
