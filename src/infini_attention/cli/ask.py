"""infini ask: questions to a session, which stays as it is."""

import time
from typing import Annotated

import typer

from infini_attention.cli.shared import common
from infini_attention.cli.shared.lines import stdin_lines
from infini_attention.cli.shared.sampling import MaxNewTokens, Seed, Temperature, TopP, sampling
from infini_attention.cli.shared.stored import OwnerFile, Store, open_file_or_stored
from infini_attention.errors import InputError

NAME = "ask"
STDIN = "-"


def run(
    session: Annotated[str, typer.Argument(help="A session file, or the name of a stored session; it stays as it is.")],
    question: Annotated[str, typer.Argument(help="- reads questions from stdin, one per line.")],
    model: common.Model = "",
    max_new_tokens: MaxNewTokens = 128,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    seed: Seed = None,
    adapter: common.Adapter = None,
    dtype: common.DType = None,
    device: common.Device = "cpu",
    store: Store = None,
    key: OwnerFile = None,
    as_json: common.AsJson = False,
) -> None:
    """Ask about what a session has read.

    Each question is asked from the session as it is: none knows of another one. Where there is no file of that name, or
    with --store, it is one of the sessions that `infini serve` keeps. With --json, each answer is an object on a line
    of its own.
    """
    options = common.ModelOptions(model, dtype=dtype, device=device, adapter=adapter)
    stream = open_file_or_stored(options, session, store, key)
    asked = False
    for text in stdin_lines() if question == STDIN else [question]:
        if question == STDIN and not text.strip():
            continue
        asked, start = True, time.perf_counter()
        reply = stream.ask(text, max_new_tokens=max_new_tokens, **sampling(temperature, top_p, seed))
        if not as_json:
            print(reply.text, flush=True)
            continue
        result = {
            "question": text,
            "answer": reply.text,
            "finished": reply.finished,
            "new_tokens": len(reply.token_ids),
            "tokens_read": stream.stats.tokens_read,
            "state_bytes": stream.state_bytes,
            "dropped_tokens": stream.dropped_tokens,
            "seconds": time.perf_counter() - start,
        }
        common.emit(result, as_json=True)
    if not asked:
        raise InputError("standard input: holds no question; expected one per line")
