"""One thread that owns the model: it reads for some requests between the steps in which it writes for others."""

import asyncio
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Generator, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from transformers import PreTrainedModel

from infini_attention.errors import InfiniError
from infini_attention.server.errors import ApiError, busy
from infini_attention.server.metrics import Metrics
from infini_attention.server.settings import Limits
from infini_attention.server.writing import Writer
from infini_attention.sessions import Batch, Session, read_together

T = TypeVar("T")
_log = logging.getLogger(__name__)


class Write:
    """What a job asks for that wants a reply: the engine lets `writer` go on from `session` until it has ended.

    The session has then read all of it but the last token.
    """

    def __init__(self, session: Session, writer: Writer) -> None:
        self.session, self.writer = session, writer


class Read:
    """What a job asks for that has a few tokens to be read: the engine reads them together with those of other jobs.

    They end where the session's unfinished segment does, or before.
    """

    def __init__(self, session: Session, token_ids: Sequence[int]) -> None:
        self.session, self.token_ids = session, token_ids


# A job moves a session of its own. It yields a `Read`, a `Write`, or the number of tokens after each piece that it has
# read by itself, and returns its result. Between two steps it can be closed: then nothing came of it.
Steps = Generator[int | Read | Write, None, T]


class _Job:
    def __init__(self, steps: Steps[Any]) -> None:
        self.steps, self.future = steps, Future[Any]()
        self.cancelled = False
        self.read: Read | None = None  # what it waits for

    def fail(self, error: Exception) -> None:
        if not isinstance(error, InfiniError | ApiError):
            _log.error("a request failed", exc_info=error)
        self.cancelled = True
        self.steps.close()
        self.future.set_exception(error)


class Engine:
    """Runs jobs. All methods but `_run` and what it calls belong to the event loop.

    Args:
        model: used by this thread alone.
        limits: how many jobs at a time, how many may wait, and how much is read at a time.
        metrics: to count with.
    """

    def __init__(self, model: PreTrainedModel, limits: Limits, metrics: Metrics) -> None:
        self.model, self.limits, self.metrics = model, limits, metrics
        self.draining = False  # jobs that read look at it, and end early
        self._requests: Counter[str] = Counter()
        self._changed = threading.Condition()
        self._waiting: deque[_Job] = deque()
        self._closed = False
        self._reading: deque[_Job] = deque()
        self._writing: dict[int, tuple[_Job, Write]] = {}  # by id of the session
        self._joining: list[tuple[_Job, Write]] = []
        self._batch = Batch(model)
        self._thread = threading.Thread(target=self._run, name="infini-engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Ends all jobs after the step at work, and the thread."""
        with self._changed:
            self._closed = self.draining = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def drain(self) -> None:
        """Takes no more requests; those that only read end with what they have read so far."""
        self.draining = True

    @asynccontextmanager
    async def place(self, owner: str, count: int = 1) -> AsyncIterator[None]:
        """A place for a request, held from before anything is done for it; one that wants many replies takes as many.

        Raises `ApiError` where there is no room for all of them.
        """
        total, limits = self._requests.total(), self.limits
        most = min(limits.batch + limits.queue, limits.key_requests or limits.batch + limits.queue)
        if count > most:
            message = f"one request may ask for at most {most} replies here; got {count}: send several requests"
            raise ApiError(400, message, "invalid_value")
        if self.draining:
            raise busy("the server is about to stop; try again when it is back")
        if total + count > limits.batch + limits.queue:
            raise busy(f"{total} requests are in work or wait already; try again a little later")
        if limits.key_requests is not None and self._requests[owner] + count > limits.key_requests:
            raise ApiError(
                429,
                f"this key has {self._requests[owner]} requests in work already, of {limits.key_requests} that it may "
                "have; wait for one of them to end",
                "rate_limit_exceeded",
                headers={"Retry-After": "1"},
            )
        self._requests[owner] += count
        self.metrics.requests_at_work.set(self._requests.total())
        try:
            yield
        finally:
            self._requests[owner] -= count
            self._requests += Counter()  # without owners who have none
            self.metrics.requests_at_work.set(self._requests.total())

    async def run(self, steps: Steps[T]) -> T:
        """The result of a job. Cancelled, the job ends before the model's next step."""
        job = _Job(steps)
        with self._changed:
            if self._closed:
                raise busy("the server has stopped")
            self._waiting.append(job)
            self._changed.notify()
        try:
            result: T = await asyncio.wrap_future(job.future)
            return result
        except asyncio.CancelledError:
            job.cancelled = True
            with self._changed:
                if job in self._waiting:  # its place is free from now on
                    self._waiting.remove(job)
                self._changed.notify()
            raise

    def _run(self) -> None:
        while self._next_round():
            self._regroup()
            self._write()
            self._read()
        waiting = [job for job in self._waiting if job.future.set_running_or_notify_cancel()]
        for job in [*waiting, *self._reading, *(job for job, _ in [*self._joining, *self._writing.values()])]:
            if not job.cancelled:
                job.fail(busy("the server has stopped"))

    def _next_round(self) -> bool:
        """Waits until there is something to do; whether there ever will be."""
        with self._changed:
            while not (self._closed or self._waiting or self._reading or self._joining or self._writing):
                self._changed.wait()
            live = len(self._reading) + len(self._joining) + len(self._writing)
            while self._waiting and live < self.limits.batch:
                job = self._waiting.popleft()
                if job.future.set_running_or_notify_cancel():  # from here on, `cancelled` is what counts
                    self._reading.append(job)
                    live += 1
            self.metrics.jobs_waiting.set(len(self._waiting))
            self.metrics.jobs_live.set(live)
            return not self._closed

    def _regroup(self) -> None:
        """Lets replies that have ended leave the batch, and new ones join it."""
        leaving = [entry for entry in self._writing.values() if entry[0].cancelled or entry[1].writer.finish]
        joining = [entry for entry in self._joining if not entry[0].cancelled]
        for job, _ in self._joining:
            if job.cancelled:
                job.steps.close()
        self._joining = []
        for _, write in leaving:
            del self._writing[id(write.session)]
        self._writing |= {id(write.session): (job, write) for job, write in joining}
        try:
            self._batch.regroup([write.session for _, write in leaving], [write.session for _, write in joining])
        except Exception as error:  # there may be no memory for so many states side by side
            self._give_up([*leaving, *self._writing.values()], error)
            return
        for job, _ in leaving:
            self._advance(job)

    def _write(self) -> None:
        """One token more for each reply."""
        if not self._writing:
            return
        entries = [self._writing[id(session)] for session in self._batch.sessions]
        start = time.perf_counter()
        try:
            logits = self._batch.step([write.writer.token_ids[-1] for _, write in entries])
            likeliest = logits.argmax(-1).tolist()
        except Exception as error:
            self._give_up(entries, error)
            return
        self.metrics.batch_size.observe(len(entries))
        self.metrics.step_seconds.observe(time.perf_counter() - start)
        for row, (job, write) in enumerate(entries):
            if job.cancelled:
                continue
            try:
                write.writer.choose(logits[row], likeliest[row])
            except Exception as error:
                job.fail(error)

    def _give_up(self, entries: Sequence[tuple[_Job, Write]], error: Exception) -> None:
        """All replies of the batch fail, and the next one begins with none."""
        self._batch, self._writing = Batch(self.model), {}
        for job, _ in entries:
            job.fail(error)

    def _read(self) -> None:
        """Pieces of what is to be read, in turn, until as many tokens are read as one step may take."""
        left = self.limits.piece_tokens
        while self._reading and left > 0:
            job = self._reading.popleft()
            alone = job.read is None or job.cancelled
            left -= self._advance(job) if alone else self._read_together(job, left)

    def _read_together(self, first: _Job, room: int) -> int:
        """One pass for a job and the next ones that fit beside it; how many tokens that took, padding included."""
        group, longest = list[_Job](), 0
        for job in [first, *self._reading]:
            if job.read is None or job.cancelled:
                continue
            wider = max(longest, len(job.read.token_ids))
            if group and wider * (len(group) + 1) > room:
                break
            group, longest = [*group, job], wider
        for job in group:
            if job is not first:
                self._reading.remove(job)
        reads = [job.read for job in group if job.read is not None]
        try:
            read_together([read.session for read in reads], [read.token_ids for read in reads])
        except Exception as error:
            for job in group:
                job.fail(error)
            return longest * len(group)
        for job in group:
            job.read = None
            self._advance(job)
        return longest * len(group)

    def _advance(self, job: _Job) -> int:
        """One step of a job; how many tokens it has read."""
        if job.cancelled:
            job.steps.close()
            return 0
        try:
            step = next(job.steps)
            if isinstance(step, Write):
                logits = step.session.position.logits
                assert logits is not None
                step.writer.choose(logits)
        except StopIteration as done:
            job.future.set_result(done.value)
        except Exception as error:
            job.fail(error)
        else:
            if isinstance(step, int | Read):
                job.read = step if isinstance(step, Read) else None
                self._reading.append(job)
                return step if isinstance(step, int) else 0
            if step.writer.finish:
                return self._advance(job)
            self._joining.append((job, step))
        return 0
