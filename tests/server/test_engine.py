"""The engine: many at a time are each what they would be alone, and nobody waits for ever."""

import asyncio
import threading
from itertools import pairwise

import pytest

from infini_attention.data.chat import ChatTemplate
from infini_attention.server import jobs
from infini_attention.server.engine import Engine
from infini_attention.server.errors import ApiError
from infini_attention.server.metrics import Metrics
from infini_attention.server.settings import Limits
from infini_attention.server.writing import Sampling, Writer
from infini_attention.sessions import Batch, Session
from tiny import SEGMENT, book

PIECE = 24


@pytest.fixture
def engine(chatty):
    engine = Engine(chatty[0], Limits(piece_tokens=PIECE, batch=8, queue=4), Metrics())
    engine.start()
    yield engine
    engine.close()


def reply_job(chatty, prompt, *, emit=lambda text: None, ends=(), session=None, **sampling):
    """A reply to a plain text, and the writer that says which tokens it was."""
    writer = Writer(chatty[1], Sampling(**{"max_new_tokens": 20} | sampling), ends, emit)
    ids = chatty[1](prompt)["input_ids"]
    return jobs.ask(session or Session(*chatty), ids, writer, PIECE), writer


def test_in_a_batch_as_alone(chatty, engine):
    """Prompts of many lengths, so that segments end at different tokens, and replies that leave at different times."""
    cases = [(book(3 + 7 * i), 5 + 4 * (i % 5)) for i in range(12)]
    alone = [Session(*chatty).generate(prompt, max_new_tokens=count) for prompt, count in cases]

    async def together():
        made = [reply_job(chatty, prompt, max_new_tokens=count) for prompt, count in cases]
        return await asyncio.gather(*(engine.run(steps) for steps, _ in made))

    outcomes = asyncio.run(together())
    assert [outcome.text for outcome in outcomes] == alone
    for (prompt, count), outcome in zip(cases, outcomes, strict=True):
        assert outcome.account["tokens_seen"] == len(prompt) + count - 1
        assert outcome.account["in_window"] == outcome.account["tokens_seen"] % SEGMENT
    batch_sizes = engine.metrics.registry.get_sample_value("infini_batch_size_sum")
    assert batch_sizes > engine.metrics.registry.get_sample_value("infini_batch_size_count")


@pytest.mark.parametrize("ends", [False, True])
def test_a_turn_stays_in_the_session(chatty, engine, ends):
    """A reply that is cut short counts as said; one that ends by a token gets the template's own end in its place."""
    tokenizer = chatty[1]
    session, ref, template = Session(*chatty), Session(*chatty), ChatTemplate(tokenizer)
    ids, _ = session.message("Hi")
    _, *said = Session(*chatty)._write(ids, max_new_tokens=5)
    assert said[4] not in said[:4]
    writer = Writer(tokenizer, Sampling(5), {said[4]} if ends else ())
    outcome = asyncio.run(engine.run(jobs.say(session, ids, writer, PIECE)))
    assert (writer.token_ids, outcome.finish) == (said, "stop" if ends else "length")
    ref.read_tokens([*ids, *(said[:-1] if ends else said), *template.closing])
    assert (session.stats, session.position.digest, session.turns) == (ref.stats, ref.position.digest, 1)
    assert session.message("So?")[0] == template.following("So?")


def test_a_long_text_does_not_stall_a_reply(chatty, engine):
    """While a text is read piece by piece, a reply gets a token after each piece."""
    order = []

    async def both():
        session = Session(*chatty)
        reading = jobs.read_text(
            session,
            [book(3000)],
            PIECE,
            scored=False,
            progress=lambda stats: order.append("read"),
            stopping=lambda: False,
        )
        steps, _ = reply_job(chatty, "Hi", emit=lambda text: order.append("write"))
        await asyncio.gather(engine.run(reading), engine.run(steps))

    asyncio.run(both())
    written = [place for place, what in enumerate(order) if what == "write"]
    assert len(written) > 5
    assert max(b - a for a, b in pairwise(written)) <= 9  # random bytes are held back a little


def test_a_batch_that_cannot_be_made_fails_and_nothing_else(chatty, engine, monkeypatch):
    """The states of all replies are joined: there may be no memory for it."""
    regroup, failures = Batch.regroup, [RuntimeError("out of memory")]

    def failing(self, leaving, joining):
        if joining and failures:
            raise failures.pop()
        regroup(self, leaving, joining)

    monkeypatch.setattr(Batch, "regroup", failing)

    async def tried():
        steps, _ = reply_job(chatty, "Hi")
        return await asyncio.wait_for(engine.run(steps), 20)

    with pytest.raises(RuntimeError, match="out of memory"):
        asyncio.run(tried())
    assert asyncio.run(tried()).written_tokens == 20


def test_cancelled_it_ends_before_the_next_step(chatty, engine, monkeypatch):
    steps_done, step = [], Batch.step
    reached, go_on = threading.Event(), threading.Event()

    def counted(self, tokens):
        steps_done.append(len(tokens))
        if len(steps_done) == 3:
            reached.set()
            go_on.wait(10)
        return step(self, tokens)

    monkeypatch.setattr(Batch, "step", counted)

    async def cancelled():
        steps, _ = reply_job(chatty, "Hi", max_new_tokens=1000)
        task = asyncio.create_task(engine.run(steps))
        await asyncio.to_thread(reached.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go_on.set()
        steps, _ = reply_job(chatty, "So", max_new_tokens=3)  # the engine is as good as new
        return await engine.run(steps)

    outcome = asyncio.run(cancelled())
    assert outcome.text == Session(*chatty).generate("So", max_new_tokens=3)
    assert steps_done == [1, 1, 1, 1, 1]  # the one that was at work was the last


def test_those_that_wait_in_vain_leave_nothing_behind(chatty):
    engine = Engine(chatty[0], Limits(), Metrics())  # not started: all wait for ever

    async def given_up():
        for _ in range(5):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(engine.run(reply_job(chatty, "Hi")[0]), 0.01)

    asyncio.run(given_up())
    assert not engine._waiting


def test_a_job_that_fails_fails_alone(chatty, engine):
    async def several():
        def broken():
            yield 1
            raise RuntimeError("broken")

        good = [reply_job(chatty, "Hi")[0] for _ in range(2)]
        return await asyncio.gather(engine.run(broken()), *map(engine.run, good), return_exceptions=True)

    error, *outcomes = asyncio.run(several())
    assert isinstance(error, RuntimeError)
    assert {outcome.text for outcome in outcomes} == {Session(*chatty).generate("Hi", max_new_tokens=20)}


def test_a_step_that_fails_does_not_end_the_engine(chatty, engine, monkeypatch):
    async def reply():
        return await engine.run(reply_job(chatty, "Hi")[0])

    def fail(self, tokens):
        raise RuntimeError("no memory")

    with monkeypatch.context() as patch:
        patch.setattr(Batch, "step", fail)
        with pytest.raises(RuntimeError, match="no memory"):
            asyncio.run(reply())
    assert asyncio.run(reply()).text == Session(*chatty).generate("Hi", max_new_tokens=20)


def test_places_are_counted(chatty):
    engine = Engine(chatty[0], Limits(batch=2, queue=1, key_requests=2), Metrics())

    async def refused(owner):
        with pytest.raises(ApiError) as caught:
            async with engine.place(owner):
                pass
        return caught.value.status, caught.value.headers["Retry-After"]

    async def several():
        async with engine.place("a"), engine.place("a"):
            assert await refused("a") == (429, "1")
            async with engine.place("b"):
                assert await refused("c") == (503, "1")
        async with engine.place("a"):
            engine.drain()
            assert await refused("b") == (503, "1")

    asyncio.run(several())


def test_closing_ends_what_is_at_work(chatty, engine):
    async def closed():
        begun = asyncio.Event()
        loop = asyncio.get_running_loop()
        steps, _ = reply_job(
            chatty, "Hi", max_new_tokens=100_000, emit=lambda text: loop.call_soon_threadsafe(begun.set)
        )
        task = asyncio.create_task(engine.run(steps))
        await begun.wait()
        await asyncio.to_thread(engine.close)
        with pytest.raises(ApiError) as caught:
            await task
        assert caught.value.status == 503
        with pytest.raises(ApiError):
            await engine.run(steps)

    asyncio.run(closed())
