"""infini report: all that is measured about models, on one page."""

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infini_attention.cli.shared import common
from infini_attention.cli.shared.counts import parse_lengths, parse_tokens
from infini_attention.cli.shared.pages import check_page
from infini_attention.cli.shared.progress import StepProgress
from infini_attention.data.novel import book_path
from infini_attention.data.text import check_text
from infini_attention.errors import ConfigError

if TYPE_CHECKING:
    from infini_attention.evaluation.journal import Record
    from infini_attention.evaluation.report.model_report import Scale

NAME = "report"


def run(
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            help="A directory, a hub id, a .gguf file, a pulled model, or builtin; several stand side by side.",
            show_default=False,
        ),
    ] = None,
    full_attention: Annotated[
        list[str] | None,
        typer.Option(
            "--full-attention",
            metavar="MODEL",
            help="A base model of any family as it is, with its own cache; may be given several times.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The page. An earlier one is replaced, any other file with --force.")
    ] = Path("infini-report.html"),
    results: Annotated[
        list[Path] | None,
        typer.Option(
            "--results",
            help="A folder with results of infini eval, inspect --json or read --monitor-file: what is there about a "
            "model is not measured again. Of eval, only passkey and perplexity are measured where they are missing.",
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Measure less: a first look.")] = False,
    lengths: Annotated[
        str | None, typer.Option("--lengths", help="Of the grid of recall, such as 4K,16K.", show_default=False)
    ] = None,
    depths: Annotated[int | None, typer.Option("--depths", min=1, help="Of the grid.", show_default=False)] = None,
    samples: Annotated[
        int | None, typer.Option("--samples", min=1, help="Per cell of the grid.", show_default=False)
    ] = None,
    tokens: Annotated[
        str | None,
        typer.Option("--tokens", help="Read so many with a key planted in them, such as 16K.", show_default=False),
    ] = None,
    max_tokens: Annotated[
        str | None, typer.Option("--max-tokens", help="Of the text whose loss is taken.", show_default=False)
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", help="The text, and the haystack.  [default: a novel]", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of keys and filler; training never uses the same ones.")] = 0,
    segment_size: common.SegmentSize = None,
    rule: common.Rule = None,
    adapter: common.Adapter = None,
    dtype: common.DType = None,
    device: common.Device = "cpu",
    force: common.Force = False,
    as_json: common.AsJson = False,
) -> None:
    """Write all that is measured about a model, or several, on one page that needs nothing else.

    Facts, the six metrics, recall with its control, loss by position, what each memory holds and gives, how long it
    keeps what was written, and the bytes that takes. What --results does not have is measured, on a small scale.

    A model with --full-attention has no memory: of it the page has the recall and the loss of texts up to the length
    that it was made for, and the bytes of its cache.
    """
    check_page(out, NAME, force=force)
    models, plain = models or [], full_attention or []
    if not models + plain:
        raise ConfigError("expected a model to report on; got none: name one with -m or --full-attention")
    if not models and (adapter or segment_size or rule):
        raise ConfigError("--full-attention converts nothing; leave out --adapter, --segment-size and --rule")
    if len(models) > 1 and adapter is not None:
        raise ConfigError(f"--adapter belongs to one model; got {len(models)}: report on them one by one")
    text = book_path() if file is None else file
    check_text(text)
    changes = {
        "lengths": None if lengths is None else parse_lengths(lengths),
        "depths": depths,
        "samples": samples,
        "tokens": None if tokens is None else parse_tokens("--tokens", tokens),
        "text_tokens": None if max_tokens is None else parse_tokens("--max-tokens", max_tokens),
        "seed": seed,
    }

    from infini_attention.environment import environment
    from infini_attention.evaluation.report.model_page import model_page, verdict
    from infini_attention.evaluation.report.model_report import Scale
    from infini_attention.evaluation.report.page import save_page
    from infini_attention.models.config import DEFAULT_SEGMENT_SIZE

    reports: list[Record] = []

    def scale(size: int | None) -> Scale:
        # a model without segments is asked what those beside it are asked
        beside = max((report["facts"]["segment_size"] or 0 for report in reports), default=0) or DEFAULT_SEGMENT_SIZE
        return Scale.of(size or beside, quick=quick).replace(**changes)

    options = [common.ModelOptions(model, segment_size, rule, dtype, device, adapter=adapter) for model in models]
    options += [common.ModelOptions(model, None, None, dtype, device, full_attention=True) for model in plain]
    for each in options:
        reports.append(_report(each, text, file is None, scale, results or []))
    command = ["infini", "report", *(word for model in models for word in ("-m", model))]
    command += [word for model in plain for word in ("--full-attention", model)]
    given: dict[str, Any] = {"lengths": lengths, "depths": depths, "samples": samples, "tokens": tokens}
    given |= {"max_tokens": max_tokens, "file": file, "seed": seed, "segment_size": segment_size, "rule": rule}
    given |= {"adapter": adapter, "dtype": dtype, "device": None if device == "cpu" else device}
    command += [w for name, value in given.items() if value is not None for w in (_flag(name), str(value))]
    command += [w for folder in results or () for w in ("--results", str(folder))] + (["--quick"] if quick else [])
    save_page(model_page(reports, environment(), command), out)
    if as_json:
        common.emit_measured({"report": str(out), "models": reports, "command": shlex.join(command)}, as_json=True)
        return
    for report in reports:
        print(f"{report['name']}: {verdict(report)}")
    print(f"\nreport: {out}")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _report(
    options: common.ModelOptions, path: Path, shipped: bool, scale: "Callable[[int | None], Scale]", folders: list[Path]
) -> "Record":
    """What a page shows of one model; what is measured for it is said on stderr."""
    from infini_attention.data.haystack import Haystack
    from infini_attention.data.novel import BOOK
    from infini_attention.evaluation.perplexity.texts import Text
    from infini_attention.evaluation.report.found_results import find_results
    from infini_attention.evaluation.report.model_report import report_on
    from infini_attention.models.fingerprint import fingerprint

    model, tokenizer = options.open()
    found = find_results(folders, fingerprint(model))
    if folders:
        counts = {name: len(getattr(found, name)) for name in ("passkey", "perplexity", "inspect", "tasks")}
        words = ", ".join(f"{name} {count}" for name, count in counts.items())
        common.console.print(f"{options.source}: results found: {words}", highlight=False, markup=False, soft_wrap=True)
    with common.console.status("tokenizing"):
        haystack = Haystack.book(tokenizer, [path])
    settings = getattr(model.config, "infini_settings", None)
    report = report_on(
        model,
        tokenizer,
        haystack,
        lambda count: Text.from_file(path, tokenizer, name=BOOK if shipped else str(path), max_tokens=count),
        scale(settings.segment_size if settings else None),
        name=options.source,
        found=found,
        progress=lambda what: _step(f"{options.source}: {what}"),
    )
    if report["limit"] is not None:
        words = f"{options.source} was made for texts of {report['limit']:,} tokens: nothing longer was measured now"
        common.console.print(words, highlight=False, markup=False, soft_wrap=True)
    return report


@contextmanager
def _step(what: str) -> "Iterator[Callable[[int, int], Any]]":
    with StepProgress(what) as progress:
        yield progress.show
