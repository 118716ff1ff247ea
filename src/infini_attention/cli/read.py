"""infini read: streams text through a model."""

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infini_attention.cli.shared import common
from infini_attention.cli.shared.counts import parse_tokens
from infini_attention.cli.shared.monitoring import Monitor, Watch, WatchEvery, WatchFile, print_memory
from infini_attention.cli.shared.pace import Pace
from infini_attention.cli.shared.progress import ReadProgress
from infini_attention.data.text import check_text, read_blocks
from infini_attention.errors import InputError

if TYPE_CHECKING:
    from infini_attention.sessions import Session

NAME = "read"
STDIN = "-"


def run(
    files: Annotated[
        list[str], typer.Argument(help="Text files, read one after the other; - is stdin.", metavar="FILE...")
    ],
    model: common.Model = "",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The session file to write.")] = None,
    session: Annotated[
        Path | None, typer.Option("--from", help="Go on from this session file, as if its text stood before.")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="The session of -o read the beginning of these files: check that, and read the rest."
        ),
    ] = False,
    max_tokens: Annotated[
        str | None, typer.Option("--max-tokens", help="Stop after about so many tokens, such as 4096 or 64K.")
    ] = None,
    chunk_size: Annotated[
        int | None,
        typer.Option("--chunk-size", min=1, help="Tokens handled at a time; changes no result.  [default: a segment]"),
    ] = None,
    score: Annotated[bool, typer.Option("--score/--no-score", help="Compute the loss of every token.")] = True,
    encoding: Annotated[str, typer.Option("--encoding", help="Of the text.")] = "utf-8",
    monitor: Watch = False,
    monitor_file: WatchFile = None,
    monitor_every: WatchEvery = None,
    segment_size: common.SegmentSize = None,
    rule: common.Rule = None,
    adapter: common.Adapter = None,
    dtype: common.DType = None,
    device: common.Device = "cpu",
    force: common.Force = False,
    as_json: common.AsJson = False,
) -> None:
    """Stream text of any length through a model.

    The bytes of the state are the same however much is read; -o keeps it as a session file.

    Ctrl-C (or SIGTERM) stops after the last whole chunk and still writes the session; --resume goes on from there.
    """
    if resume:
        if output is None or session is not None:
            raise InputError("--resume needs -o SESSION, the file to go on with, and no --from")
        session = output
    elif output is not None:
        common.check_output(output, force=force)
        if output.is_dir():
            raise InputError(f"{output} is a directory; expected the name of a session file")
    if monitor_file is not None:
        common.check_output(monitor_file, force=force)
    limit = None if max_tokens is None else parse_tokens("--max-tokens", max_tokens)
    sizes = [None if name == STDIN else check_text(Path(name), encoding) for name in files]
    total = None if None in sizes else sum(size for size in sizes if size)
    options = common.ModelOptions(model, segment_size, rule, dtype, device, adapter=adapter)
    stream = common.open_session(options, session)
    watched = monitor or monitor_file is not None or monitor_every is not None
    watch = Monitor(stream, monitor_file, monitor_every) if watched else None
    result = read_with_progress(
        stream,
        blocks_of(files, encoding),
        total,
        watch,
        chunk_size=chunk_size,
        scored=score,
        max_tokens=limit,
        resume=resume,
    )
    if output is not None and not (result["interrupted"] and stream.stats.tokens_read == 0):
        stream.save(output)
        result["session"] = str(output)
    figures = None if watch is None else watch.figures()
    if as_json:
        result |= {} if watch is None else {"monitor": figures}
    common.emit_measured(result, as_json=as_json)
    if figures is not None and not as_json:
        print_memory(figures)
    if result["interrupted"]:
        raise typer.Exit(130)


def read_with_progress(
    stream: "Session", blocks: Iterator[str], total_bytes: int | None, watch: Monitor | None = None, **options: Any
) -> dict[str, Any]:
    """Reads with a progress bar until the text ends or Ctrl-C comes; the figures of `infini read --json`.

    What was read before a bad byte in a pipe, or before the key, is kept in `stream`. `watch` looks at the memory.
    """
    before, start, interrupted, pace = stream.stats, time.perf_counter(), False, Pace()
    with (
        ReadProgress(total_bytes) as progress,
        sigterm_as_interrupt(),
        nullcontext() if watch is None else watch.following(progress),
    ):
        try:
            for stats in stream.read_steps(blocks, **options):
                seconds, tokens = time.perf_counter() - start, stats.tokens_read - before.tokens_read
                pace.mark(tokens, seconds)
                progress.show(
                    done=stats.text_bytes,
                    tokens=stats.tokens_read,
                    rate=tokens / seconds,
                    state_bytes=stream.state_bytes,
                )
        except KeyboardInterrupt:
            interrupted = True
    seconds = time.perf_counter() - start
    tokens = stream.stats.tokens_read - before.tokens_read
    return {
        "model": stream.name,
        "adapter": stream.adapter or None,
        "tokens_read": tokens,
        "tokens_seen": stream.stats.tokens_read,
        "seconds": round(seconds, 3),
        "tokens_per_second": round(tokens / seconds, 1),
        "segment_size": stream.segment_size,
        "state_bytes": stream.state_bytes,
        "full_kv_bytes": stream.full_kv_bytes,
        **pace.figures(),
        "tokens_in_window": stream.tokens_in_window,
        "tokens_compressed": stream.tokens_compressed,
        "dropped_tokens": stream.dropped_tokens,
        "bits_per_byte": stream.stats.bits_per_byte,
        "perplexity": stream.stats.perplexity,
        "interrupted": interrupted,
    }


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """A job that is asked to end keeps its session, as one that is interrupted does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def blocks_of(files: list[str], encoding: str) -> Iterator[str]:
    """The text of files, one after the other."""
    for name in files:
        if name == STDIN:
            yield from read_blocks(sys.stdin.buffer, encoding)
        else:
            with Path(name).open("rb") as file:
                yield from read_blocks(file, encoding, name=name)
