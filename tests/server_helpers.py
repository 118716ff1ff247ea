"""What tests of the server share."""

import json

KEYS = ("key-of-ann-0123456789", "key-of-bob-0123456789")


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def events_of(response) -> list:
    """The data of a stream's events, parsed; the last one of OpenAI's is a string."""
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]
