"""infini demo: the main job on the built-in default."""

from pathlib import Path
from typing import Annotated, Any

import typer

from infini_attention.cli.shared import common
from infini_attention.cli.shared.counts import parse_tokens
from infini_attention.cli.shared.pages import check_page
from infini_attention.cli.shared.progress import ReadProgress, SampleProgress
from infini_attention.data.novel import BOOK, book_path
from infini_attention.data.text import check_text
from infini_attention.errors import ConfigError

NAME = "demo"


def run(
    tokens: Annotated[
        str, typer.Option("--tokens", help="Length of the text, such as 64K or 1M (K = 1024, M = 1024K).")
    ] = "1M",
    seed: Annotated[
        int, typer.Option("--seed", help="Of the key, its place and the filler; training never uses the same ones.")
    ] = 0,
    haystack: Annotated[
        list[Path] | None,
        typer.Option("--haystack", help="A text to hide the key in; may be given several times.  [default: a novel]"),
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            help="A directory, a hub id, a .gguf file, a pulled model, or builtin.  [default: builtin]",
            show_default=False,
        ),
    ] = "",
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The report. An earlier one is replaced, any other file with --force.")
    ] = Path("infini-demo.html"),
    adapter: common.Adapter = None,
    dtype: common.DType = None,
    device: common.Device = "cpu",
    force: common.Force = False,
    as_json: common.AsJson = False,
) -> None:
    """Recall a key from a million tokens of a novel.

    Five digits are hidden at a random place in a text, which the model reads in a constant number of bytes. It is asked
    for them with its memory on and off. A small map of recall, at several lengths and depths, is measured as well.

    All of it stands in the report, one HTML file that needs nothing else.
    """
    count, files = parse_tokens("--tokens", tokens), haystack or [book_path()]
    for path in files:
        check_text(path)
    check_page(out, NAME, force=force)

    from infini_attention.data.haystack import Haystack
    from infini_attention.environment import environment
    from infini_attention.evaluation import demo
    from infini_attention.evaluation.report import demo_page
    from infini_attention.evaluation.report.heat_map import check_matplotlib, short
    from infini_attention.evaluation.report.page import save_page
    from infini_attention.evaluation.stream import subject_of
    from infini_attention.models.known import BUILTIN

    try:
        check_matplotlib()
    except ConfigError as error:  # an extra; the report shows the map as a table without it
        common.console.print(f"no picture in the report: {error}", highlight=False, markup=False, soft_wrap=True)
    source = model or BUILTIN
    options = common.ModelOptions(source, dtype=dtype, device=device, adapter=adapter)
    twin, tokenizer = options.open()
    with common.console.status("hiding the key"):
        filler = Haystack.book(tokenizer, files)
        hidden = demo.hide_key(tokenizer, filler, count, seed)
    subject = subject_of(twin)
    with ReadProgress(count) as progress:
        reading = demo.read_and_ask(
            subject,
            hidden.sample,
            on_piece=lambda done, seconds, nbytes: progress.show(
                done=done, tokens=done, rate=done / seconds, state_bytes=nbytes
            ),
        )
    with SampleProgress("map of recall") as samples:
        cells = demo.measure_map(tokenizer, filler, subject, below=count, seed=seed, on_sample=samples.show)
    result = {
        "model": source,
        "adapter": options.used_adapter() or None,
        "haystack": [str(path) for path in haystack or [Path(BOOK)]],
        "haystack_tokens": filler.period,
        "haystack_digest": filler.digest,
        "seed": seed,
        **demo.figures(twin, tokenizer, hidden, reading, cells),
        **subject.about,
        "report": str(out),
    }
    command = ["infini", "demo", "-m", source, "--tokens", short(count), "--seed", str(seed)]
    command += [word for path in haystack or [] for word in ("--haystack", str(path))]
    command += [] if adapter is None else ["--adapter", adapter]
    command += [] if dtype is None else ["--dtype", dtype.value]
    command += [] if device == "cpu" else ["--device", device]
    page = demo_page.demo_page(result | environment(), demo_page.excerpt(tokenizer, hidden.sample), command)
    save_page(page, out)
    if not as_json:
        print(demo_page.verdict(result) + "\n")
        result = _main_figures(result)
    common.emit_measured(result, as_json=as_json)


def _main_figures(result: dict[str, Any]) -> dict[str, Any]:
    """For people, in the order of their questions."""
    right = sum(cell["exact"] for cell in result["grid"])
    return {
        "key": result["key"],
        "hidden_at": f"{result['depth']:.1%} of {result['tokens']:,} tokens of {', '.join(result['haystack'])}",
        "tokens_to_question": result["tokens_to_question"],
        "answer": result["answer"],
        "answer_memory_off": result["answer_memory_off"],
        "state_bytes": result["state_bytes"],
        "full_kv_bytes": result["full_kv_bytes"],
        "seconds": result["seconds"],
        "tokens_per_second": result["tokens_per_second"],
        "map_of_recall": f"{right:.0f} of {len(result['grid'])} right",
        "report": result["report"],
    }
