"""Load on a server: many sessions at the same time, each of which is asked again and again for its own key.

    python benchmarks/serve_load.py --sessions 200 --seconds 600 --out benchmarks/results/serve-load.json

Starts `infini serve` in a process of its own, reads into each session a text with a pass key of its own that the model
gives when it is asked alone, and then asks all of them without a pause. Written down are: how many
answers named the session's own key, and how many another session's; the time to the first token and between tokens; the
server's resident set over time; and, before that, how much faster replies are written side by side than one by one,
how long the turns of a conversation take whose whole history is sent again with each, and what forks take.

Prints a table, or with --json the object that --out writes.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx2
import psutil
from load_figures import Figures, summary, table

from infini_attention.data.haystack import Haystack
from infini_attention.data.recall import QUESTION, passkey
from infini_attention.environment import environment
from infini_attention.models import load_model, load_tokenizer
from infini_attention.sessions import Session

BOOK = Path(__file__).parents[1] / "examples" / "books" / "northanger-abbey.txt"
KEY_TOKENS = 5


def samples_of(source: str, count: int, length: int) -> tuple[list[tuple[str, str]], int]:
    """Texts that end where the question begins, each with the key in it; and how many others were passed over.

    Only those whose key the model gives when it is asked alone, and no key twice: what then goes wrong is the server's.
    """
    model, tokenizer = load_model(source), load_tokenizer(source)
    haystack, samples, seed = Haystack.book(tokenizer, [BOOK]), dict[str, str](), 0
    while len(samples) < count:
        if seed >= 2 * count + 10:
            sys.exit(
                f"alone, the model gives only {len(samples)} of {seed} keys at {length} tokens; choose another length"
            )
        sample = passkey(tokenizer, length, random.Random(seed), haystack)
        (start, stop), (asked, _) = sample.answers[0], sample.questions[0]
        ids, seed = sample.token_ids.tolist(), seed + 1
        text, key = tokenizer.decode(ids[:asked]), tokenizer.decode(ids[start:stop]).strip()
        session = Session(model, tokenizer)
        session.read(text, scored=False)
        if key in session.generate(QUESTION, max_new_tokens=KEY_TOKENS):
            samples[key] = text
    return [(text, key) for key, text in samples.items()], seed - count


async def measure(
    arguments: argparse.Namespace, samples: list[tuple[str, str]], url: str, process: psutil.Process, store: Path
) -> dict[str, Any]:
    names, keys = [f"load-{number}" for number in range(len(samples))], {key for _, key in samples}
    figures, start = Figures(), time.perf_counter()
    limits = httpx2.Limits(max_connections=arguments.sessions + 16)
    async with httpx2.AsyncClient(base_url=url, timeout=600, limits=limits) as http:
        await asyncio.gather(*(fill(http, name, text) for name, (text, _) in zip(names, samples, strict=True)))
        filled = time.perf_counter() - start
        print(f"{len(names)} sessions of {arguments.tokens} tokens in {filled:.1f} s", file=sys.stderr)
        side_by_side = await throughput(http, names, arguments.rows, arguments.reply_tokens)
        turns = await history(http, arguments.turns)
        forks = await fork(http, names[0], arguments.forks, process, store)
        end = time.perf_counter() + arguments.seconds
        watching = asyncio.create_task(watch(figures, process, end))
        pairs = zip(names, samples, strict=True)
        await asyncio.gather(*(ask_on(http, name, key, keys, figures, end) for name, (_, key) in pairs))
        await watching
    return {"seconds_to_fill": filled, "throughput": side_by_side, "history": turns, "forks": forks, **summary(figures)}


async def fill(http: httpx2.AsyncClient, name: str, text: str) -> None:
    """A new session that has read a text; a server that is full is asked again."""
    (await http.post("/v1/sessions", json={"id": name})).raise_for_status()
    while (answer := await http.post(f"/v1/sessions/{name}/text", json={"text": text})).status_code == 503:
        await asyncio.sleep(float(answer.headers["Retry-After"]))
    answer.raise_for_status()


async def ask_on(http: httpx2.AsyncClient, name: str, key: str, keys: set[str], figures: Figures, end: float) -> None:
    """Asks one session for its key until the time is up."""
    body = {"prompt": QUESTION, "max_new_tokens": KEY_TOKENS, "stream": True}
    while (start := time.perf_counter()) < end:
        text, times = "", []
        try:
            async with http.stream("POST", f"/v1/sessions/{name}/complete", json=body) as answer:
                if answer.status_code == 503:
                    figures.sent_away += 1
                    await asyncio.sleep(float(answer.headers["Retry-After"]))
                    continue
                answer.raise_for_status()
                async for line in answer.aiter_lines():
                    event = json.loads(line[6:]) if line.startswith("data: {") else {}
                    if "error" in event:
                        raise RuntimeError(event["error"]["message"])
                    if event.get("object") == "session.delta":
                        text += event["text"]
                        times.append(time.perf_counter())
        except (httpx2.HTTPError, RuntimeError) as error:
            figures.errors.append(f"{name}: {error!r}")
            continue
        figures.answers += 1
        figures.own_key += key in text
        figures.key_of_another += any(other in text for other in keys - {key})
        figures.no_key += not any(other in text for other in keys)
        if times:
            figures.first_token.append(times[0] - start)
            figures.per_token += [b - a for a, b in pairwise(times)]


async def throughput(http: httpx2.AsyncClient, names: list[str], rows: int, tokens: int) -> dict[str, float]:
    """Tokens per second of replies that are written one by one, and `rows` of them side by side."""

    async def write(name: str) -> int:
        body = {"prompt": " ", "max_new_tokens": tokens}
        answer = await http.post(f"/v1/sessions/{name}/complete", json=body)
        answer.raise_for_status()
        return int(answer.json()["usage"]["completion_tokens"])

    chosen = (names * rows)[:rows]
    await asyncio.gather(*map(write, chosen))  # sessions are then in memory, and nothing is run for the first time
    start = time.perf_counter()
    alone = sum([await write(name) for name in chosen]) / (time.perf_counter() - start)
    start = time.perf_counter()
    together = sum(await asyncio.gather(*map(write, chosen))) / (time.perf_counter() - start)
    return {"rows": rows, "one_by_one": alone, "side_by_side": together, "ratio": together / alone}


async def history(http: httpx2.AsyncClient, turns: int) -> dict[str, Any]:
    """A text that grows by the same words and a reply at each turn, and is sent whole.

    Of all turns but the first: whether `cached_tokens` are all that the turn before has left, which is its prompt and
    its reply but for the last token; and the medians of the seconds of the five at the start and at the end.
    """
    model = (await http.get("/v1/models")).json()["data"][0]["id"]
    text, seconds, read, known, right = "", list[float](), list[int](), 0, 0
    for turn in range(turns):
        text += " She looked out of the window, and saw that it rained."
        start = time.perf_counter()
        body = {"model": model, "prompt": text, "max_tokens": 8, "temperature": 0}
        answer = await http.post("/v1/completions", json=body)
        seconds.append(time.perf_counter() - start)
        answer.raise_for_status()
        done = answer.json()
        text += done["choices"][0]["text"]
        used, cached = done["usage"], done["usage"]["prompt_tokens_details"]["cached_tokens"]
        right += turn > 0 and cached == known
        known = used["prompt_tokens"] + used["completion_tokens"] - 1
        read.append(used["prompt_tokens"] - cached)
    first, last = statistics.median(seconds[1:6]), statistics.median(seconds[-5:])
    tokens = {"tokens": used["prompt_tokens"], "read_at_turn_2": read[1], "read_at_the_last": read[-1]}
    cached_tokens = {"cached_tokens_right": right, "cached_tokens_wrong": turns - 1 - right}
    times = {"first_seconds": first, "last_seconds": last, "ratio": last / first}
    return {"turns": turns, **tokens, **cached_tokens, **times, "seconds": seconds}


async def fork(http: httpx2.AsyncClient, name: str, count: int, process: psutil.Process, store: Path) -> dict[str, Any]:
    """What forks of a session take in the store's states, and in the server's resident set."""

    def measured() -> tuple[int, int]:
        states = sum(path.stat().st_size for path in (store / "parts").rglob("*") if path.is_file())
        return states, process.memory_info().rss

    before, start = measured(), time.perf_counter()
    for _ in range(count):
        (await http.post(f"/v1/sessions/{name}/fork", json={})).raise_for_status()
    seconds, after = time.perf_counter() - start, measured()
    states, resident = (new - old for new, old in zip(after, before, strict=True))
    return {"count": count, "seconds": seconds, "bytes_in_the_store": states, "resident_bytes": resident}


async def watch(figures: Figures, process: psutil.Process, end: float) -> None:
    """The server's resident set: once a second, and at the end."""
    start = time.perf_counter()
    while True:
        now = time.perf_counter()
        figures.resident.append((round(now - start, 1), process.memory_info().rss))
        if now >= end:
            return
        await asyncio.sleep(min(1, end - now))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", default="builtin")
    parser.add_argument("--sessions", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--tokens", type=int, default=4096, help="of each session's text with its question")
    parser.add_argument("--rows", type=int, default=16, help="replies side by side, for the throughput")
    parser.add_argument("--reply-tokens", type=int, default=64, help="of each of these")
    parser.add_argument("--turns", type=int, default=100, help="of the conversation that is sent again")
    parser.add_argument("--forks", type=int, default=1000, help="of one session")
    parser.add_argument("--out", type=Path, help="a file for all of it, as JSON")
    parser.add_argument("--json", action="store_true", help="print that instead of a table")
    arguments = parser.parse_args()
    if min(arguments.sessions, arguments.rows, arguments.reply_tokens, arguments.turns - 1) < 1:
        parser.error("at least one session, row and reply token, and two turns are needed")
    samples, passed_over = samples_of(arguments.model, arguments.sessions, arguments.tokens)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "infini_attention.cli", "serve", "-m", arguments.model, "--port", "0"]
        command += ["--store", f"{folder}/store", "--json", "--queue", str(arguments.sessions)]
        command += ["--max-sessions", str(arguments.sessions + arguments.forks)]
        command += ["--live-sessions", str(arguments.sessions)]
        environment_of_server = os.environ | {"INFINI_API_KEYS": ""}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment_of_server)
        try:
            assert process.stdout is not None
            url = json.loads(process.stdout.readline())["url"]
            server = psutil.Process(process.pid)
            result = asyncio.run(measure(arguments, samples, url, server, Path(folder, "store")))
            process.send_signal(signal.SIGTERM)
            result["exit_code"] = process.wait(60)
        finally:
            process.kill()
    counts = {"sessions": len(samples), "tokens": arguments.tokens, "samples_passed_over": passed_over}
    result = {"command": " ".join(["python", *sys.argv]), **counts, **result, **environment()}
    text = json.dumps(result, indent=1)
    if arguments.out:
        arguments.out.write_text(text + "\n")
    print(text if arguments.json else table(result))


if __name__ == "__main__":
    main()
