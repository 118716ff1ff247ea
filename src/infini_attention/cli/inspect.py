"""infini inspect: what a memory holds."""

from pathlib import Path
from typing import Annotated, Any

import typer

from infini_attention.cli.shared import common
from infini_attention.cli.shared.counts import parse_tokens
from infini_attention.cli.shared.monitoring import print_memory
from infini_attention.cli.shared.progress import ReadProgress
from infini_attention.data.novel import book_path
from infini_attention.data.text import check_text
from infini_attention.errors import ConfigError

NAME = "inspect"
RECORDING = ".jsonl"


def run(
    source: Annotated[
        str,
        typer.Argument(
            help="A session, a model as for -m, or a file of read --monitor-file.",
            metavar="SESSION|MODEL|FILE.jsonl",
        ),
    ],
    tokens: Annotated[
        str | None,
        typer.Option(
            "--tokens",
            help="Read so many with a key planted at their beginning, such as 16K; of a session, in a fork. 0 reads "
            "nothing.  [default: 8 segments, at least 4K]",
            show_default=False,
        ),
    ] = None,
    haystack_file: Annotated[
        list[Path] | None,
        typer.Option("--haystack-file", help="The text to read; may be given several times.  [default: a novel]"),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the key and of the place in the text.")] = 0,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw it all into this file, .png or .svg.")] = None,
    model: common.Model = "",
    segment_size: common.SegmentSize = None,
    rule: common.Rule = None,
    adapter: common.Adapter = None,
    dtype: common.DType = None,
    device: common.Device = "cpu",
    force: common.Force = False,
    as_json: common.AsJson = False,
) -> None:
    """Show what a memory holds, and what it does while its model reads.

    Six metrics, and a row per layer and key/value head: gate and the memory's share of the output (of each of its query
    heads), effective rank, utilisation (the rank by the key size), norm, mean write strength, share of tokens written,
    share of the memory lost per token, and how well what was written is read back, after one segment and at last.
    """
    check_plot(plot, force=force)
    for path in haystack_file or ():
        check_text(path)
    options = common.ModelOptions(model, segment_size, rule, dtype, device, adapter=adapter)
    if Path(source).suffix == RECORDING:
        result = _of_recording(Path(source))
    else:
        count = None if tokens is None else 0 if tokens == "0" else parse_tokens("--tokens", tokens)
        result = _of_stream(source, options, count, haystack_file or [book_path()], seed)
    if plot is not None:
        from infini_attention.evaluation.report.picture_cards import save_overview

        save_overview(result, plot)
        result["plot"] = str(plot)
    if as_json:
        common.emit_measured(result, as_json=True)
        return
    about = {name: result[name] for name in ("model", "rule", "segment_size")}
    common.emit(about | ({"plot": str(plot)} if plot else {}), as_json=False)
    print_memory(result)


def check_plot(plot: Path | None, *, force: bool) -> None:
    """Raises `InfiniError` unless the picture can be drawn. Called before the work, not after it."""
    if plot is not None:
        from infini_attention.evaluation.report.picture_cards import check_picture

        check_picture(plot)
        common.check_output(plot, force=force)


def _of_recording(path: Path) -> dict[str, Any]:
    from infini_attention.evaluation.inspection import summarize
    from infini_attention.monitor.file import read_recording

    return summarize(read_recording(path))


def _of_stream(
    source: str, options: common.ModelOptions, tokens: int | None, texts: list[Path], seed: int
) -> dict[str, Any]:
    """Of a session, which stays as it is, or of a model that reads for the first time."""
    from dataclasses import replace

    from infini_attention.data.haystack import Haystack
    from infini_attention.evaluation.inspection import Reading, default_tokens, inspect

    path = Path(source).expanduser()
    session: dict[str, Any] = {"session": None}
    if path.is_file() and path.suffix != ".gguf":
        stream = common.open_session(options, path)
        twin, tokenizer, name, cache = stream.model, stream.tokenizer, stream.name, stream.cache
        session = {"session": str(path)}
    elif options.source:
        raise ConfigError(f"{source!r} is no session file, so that -m {options.source} is a second model: give one")
    else:
        options = replace(options, source=source)
        twin, tokenizer = options.open()
        name, cache = source, None
    count = default_tokens(twin.config.infini_settings.segment_size) if tokens is None else tokens
    reading = None
    if count:
        with common.console.status("tokenizing"):
            reading = Reading(Haystack.book(tokenizer, texts), count, seed)
    with ReadProgress(count or None) as progress:
        import time

        start = time.perf_counter()
        result = inspect(
            twin,
            tokenizer,
            reading,
            name=name,
            cache=cache,
            on_piece=lambda done: progress.show(
                done=done, tokens=done, rate=done / (time.perf_counter() - start), state_bytes=0
            ),
        )
    return session | result
