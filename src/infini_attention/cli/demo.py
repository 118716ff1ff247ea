"""infini demo: the main job on the built-in default."""

from pathlib import Path
from typing import Annotated

import typer

from infini_attention.cli import common
from infini_attention.cli.read import read_with_progress
from infini_attention.data.text import read_blocks
from infini_attention.errors import InputError

NAME = "demo"
BOOK = "northanger-abbey.txt"


def run(
    tokens: Annotated[int, typer.Option("--tokens", min=2, help="How much of the book to read.")] = 8192,
    segment_size: common.SegmentSize = None,
    as_json: common.AsJson = False,
) -> None:
    """Read the beginning of a novel in constant bytes.

    The model is SmolLM2-135M, converted on the fly and fetched once.
    """
    from infini_attention.models.pulling import pull

    with common.console.status("fetching the model (once)") as status:
        pull(common.DEFAULT_MODEL, on_progress=lambda step: status.update(f"{common.DEFAULT_MODEL}: {step}"))
    options = common.ModelOptions(common.DEFAULT_MODEL, segment_size)
    stream = common.open_session(options, None)
    with book_path().open("rb") as file:
        result = read_with_progress(stream, read_blocks(file, name=BOOK), None, max_tokens=tokens)
    common.emit_measured({"book": BOOK, **result}, as_json=as_json)
    if not as_json:
        saved = result["full_kv_bytes"] / result["state_bytes"]
        print(
            f"\nA full key-value cache of these {result['tokens_read']:,} tokens takes {saved:.1f} times the bytes of "
            "the state, and grows with every token; the state stays as it is."
        )


def book_path() -> Path:
    """The novel, in a checkout or in an installed package."""
    package = Path(__file__).parents[1]
    for path in (package / "books" / BOOK, package.parents[1] / "examples" / "books" / BOOK):
        if path.is_file():
            return path
    raise InputError(f"the novel {BOOK} is missing from this installation; use `infini read FILE` with a text of yours")
