"""infini eval perplexity: whole books, memory on against memory off."""

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infini_attention.cli.eval.request import FullAttention, check_folder, check_memory, note_length
from infini_attention.cli.shared import common
from infini_attention.cli.shared.counts import parse_tokens
from infini_attention.cli.shared.progress import ReadProgress
from infini_attention.data.novel import BOOK, book_path
from infini_attention.data.text import check_text
from infini_attention.errors import ConfigError, InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from infini_attention.evaluation.journal import Journal, Record
    from infini_attention.evaluation.perplexity.texts import Text

NAME = "perplexity"


class Modes(StrEnum):
    """With the memory, without it, or one after the other."""

    both = "both"
    on = "on"
    off = "off"


def run(
    model: common.Model = "",
    file: Annotated[
        list[Path] | None,
        typer.Option("--file", help="A text, read as one stream; may be given several times.  [default: a novel]"),
    ] = None,
    memory: Annotated[
        Modes | None,
        typer.Option(
            "--memory",
            help="on carries it to the end; off leaves it empty: a control.  "
            "[default: both, or on with --full-attention]",
        ),
    ] = None,
    max_tokens: Annotated[
        str | None, typer.Option("--max-tokens", help="Of each text, such as 64K or 1M.  [default: all]")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="A folder for results and the curve; what it has already is not run again."),
    ] = None,
    segment_size: common.SegmentSize = None,
    rule: common.Rule = None,
    adapter: common.Adapter = None,
    dtype: common.DType = None,
    device: common.Device = "cpu",
    full_attention: FullAttention = False,
    as_json: common.AsJson = False,
) -> None:
    """Predict whole books, with the memory on and off.

    Each text is one stream from its first token to its last. The difference in bits per byte says what the memory does
    for this model, and by position whether its gain grows. A model that was trained with a memory may do worse without
    it than one that never had any: that is another control, and another model.

    With --dtype int8, the first of these readings is repeated with float32 weights: what the rounding costs.

    Standard errors stand behind +-. They come from blocks of the text, for neighbouring tokens depend on each other.
    """
    limit = None if max_tokens is None else parse_tokens("--max-tokens", max_tokens)
    if limit == 1:
        raise ConfigError("--max-tokens must be at least 2, one to predict the other from; got 1")
    files = [(str(path), path) for path in file] if file else [(BOOK, book_path())]
    for _, path in files:
        check_text(path)
    check_folder(out)
    source = model or common.DEFAULT_MODEL
    options = common.ModelOptions(source, segment_size, rule, dtype, device, full_attention, adapter)
    if memory is None:
        memory = Modes.on if full_attention else Modes.both
    check_memory(options, off=memory is not Modes.on)

    from infini_attention.environment import environment
    from infini_attention.evaluation.journal import Journal
    from infini_attention.evaluation.perplexity.figures import cost, summarize
    from infini_attention.evaluation.perplexity.task import MODES
    from infini_attention.evaluation.perplexity.texts import Text

    journal = Journal(None if out is None else out / f"{NAME}.jsonl")
    twin, tokenizer = options.open()
    with common.console.status("tokenizing"):
        texts = [Text.from_file(path, tokenizer, name=name, max_tokens=limit) for name, path in files]
    note_length(twin, max(len(text.token_ids) for text in texts))
    modes = MODES if memory is Modes.both else (memory.value,)
    records = _read(twin, texts, modes, journal)
    about = {"model": options.source, "adapter": options.used_adapter() or None}
    result = {"task": NAME, **about, **summarize(texts, records), **environment()}
    if dtype is common.DTypeName.int8:
        del twin
        twin, _ = replace(options, dtype=common.DTypeName.float32).open()
        result["cost_of_int8"] = cost(texts, records, _read(twin, texts, modes[:1], journal))
    if out is not None:
        try:
            _write(result, out)
        except OSError as error:
            raise InputError(f"{out}: could not be written ({error.strerror})") from error
    if as_json:
        common.emit(result, as_json=True)
    else:
        _show(result)


def _read(
    model: "PreTrainedModel", texts: "Sequence[Text]", modes: Sequence[str], journal: "Journal"
) -> "list[Record]":
    """`measure` with its progress. Ctrl-C keeps the texts that were read to their ends."""
    from infini_attention.evaluation.perplexity.task import measure

    start = time.perf_counter()
    with ReadProgress(None) as progress:
        return measure(
            model,
            texts,
            modes,
            journal,
            on_piece=lambda done, total, nbytes: progress.show(
                done=done, total=total, tokens=done, rate=done / (time.perf_counter() - start), state_bytes=nbytes
            ),
        )


def _write(result: dict[str, Any], out: Path) -> None:
    """The result and its curve. A run in one mode alone has files of its own."""
    from infini_attention.evaluation.report.loss_curve import position_curve

    suffix = "" if result["difference"] else f"-memory-{next(iter(result['memory']))}"
    suffix = "-full-attention" if result["attention"] != "infini" else suffix
    picture = out / f"position{suffix}.png"
    try:
        title = f"{NAME} · {Path(result['model']).name}"
        position_curve(result["positions"], picture, title=title, full_attention=result["attention"] != "infini")
        result["curve"] = str(picture)
    except ConfigError as error:  # matplotlib is an extra; the figures are there without it
        common.console.print(f"no picture: {error}", highlight=False, markup=False)
        result["curve"] = None
    (out / f"{NAME}{suffix}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _show(result: dict[str, Any]) -> None:
    """For people: what was read, the figures by mode, and bits per byte by position."""
    names = (
        "task",
        "model",
        "attention",
        "trained_length",
        "files",
        "tokens",
        "bytes",
        "words",
        "state_bytes",
        "full_kv_bytes",
        "seconds",
    )
    files = ", ".join(each["file"] for each in result["files"])
    common.emit({name: files if name == "files" else result[name] for name in names}, as_json=False)
    columns = {f"memory {mode}": figures for mode, figures in result["memory"].items()}
    if result["attention"] != "infini":
        columns = {"full attention": result["memory"]["on"]}
    series = dict(zip(columns, result["memory"], strict=True))
    if result["difference"]:
        columns, series = columns | {"on - off": result["difference"]}, series | {"on - off": "difference"}
    print()
    _line("", columns)
    for name in ("bits_per_byte", "nats_per_token", "perplexity", "perplexity_per_word"):
        _line(name.replace("_", " "), [_with_error(figures, name) for figures in columns.values()])
    _line("tokens per second", [f"{figures['tokens_per_second']:,.0f}" for figures in result["memory"].values()])
    if "cost_of_int8" in result:
        lost = result["cost_of_int8"]
        rounded, floating = lost["perplexity"]
        print(
            f"\nint8 weights cost {_with_error(lost, 'bits_per_byte')} bits per byte beside float32, with the memory "
            f"{lost['memory']}: perplexity {rounded:,.4f}, not {floating:,.4f}"
        )
    print("\nbits per byte by position in the stream")
    _line(f"{'from':>11}{'to':>12}", columns)
    for place in result["positions"]:
        borders = f"{place['start']:>11,}{place['stop']:>12,}"
        _line(borders, [_with_error(place, name) for name in series.values()])


def _line(head: str, cells: Iterable[str]) -> None:
    print(f"{head:<23}{''.join(f' {cell:>23}' for cell in cells)}")


def _with_error(figures: dict[str, Any], name: str) -> str:
    """`1.2345 +- 0.0067`; a single block has no error."""
    value, error = figures.get(name), figures.get(f"{name}_se")
    if value is None:
        return "-"
    form = ",.4f" if abs(value) < 100 else ",.1f" if abs(value) < 1e6 else ".2e"
    return f"{value:{form}}" + ("" if error is None else f" +- {error:{form}}")
