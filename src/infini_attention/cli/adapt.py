"""infini adapt: teaches a pretrained model to use a memory."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infini_attention.cli.shared import common, training

if TYPE_CHECKING:
    from infini_attention.training.recipe import Recipe

NAME = "adapt"


def run(
    model: Annotated[str, typer.Argument(help="A local directory, a hub id, a .gguf file, or a pulled model's name.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="ADAPTER", help="The file to write, such as memory.safetensors.")
    ],
    books: Annotated[
        list[Path] | None,
        typer.Option("--books", help="A text to train on, or a folder of them; may be given several times."),
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(
            "--recipe", help="A TOML file.  [default: training/adapt.toml of this package]", show_default=False
        ),
    ] = None,
    changes: training.Changes = None,
    start: Annotated[
        Path | None,
        typer.Option("--start", metavar="ADAPTER", help="Go on with the memory of an adapter, as it was set up."),
    ] = None,
    lora: Annotated[
        int | None,
        typer.Option("--lora", metavar="RANK", min=1, help="Train changes of this rank of the model's attention too."),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--out-dir",
            help="The folder of checkpoints and log.  [default: runs/ and ADAPTER's name]",
            show_default=False,
        ),
    ] = None,
    resume: training.Resume = False,
    threads: training.Threads = None,
    force: common.Force = False,
    as_json: common.AsJson = False,
) -> None:
    """Teach a pretrained model to use a memory.

    Its own weights stay as they are. What is learnt is written to the file ADAPTER, for `--adapter` of other commands.

    It learns to recall keys out of filler: the texts of --books, and without them five sentences again and again, which
    teaches it little about real text. A run that was killed goes on with --resume, to the same adapter.
    """
    common.check_output(output, force=force)
    training.check_extra()
    loaded = _recipe(model, books, recipe, changes or [], lora, start)
    where = Path("runs") / output.stem if folder is None else folder
    training.run_recipe(loaded, where, adapter=output, resume=resume, threads=threads, as_json=as_json)


def _recipe(
    model: str, books: list[Path] | None, path: Path | None, changes: list[str], lora: int | None, start: Path | None
) -> "Recipe":
    """The recipe with the options in it. That of this package makes do with repeated filler if there is no text."""
    from infini_attention.training.recipe import ADAPT_RECIPE, load_recipe

    options: dict[str, Any] = {"base": model}
    if books:
        # As options they are relative to the working directory, and in a recipe to its folder.
        options["data"] = {"books": [str(book.resolve()) for book in books]}
    if lora is not None:
        options["lora"] = {"rank": lora}
    if start is not None:
        options["start"] = str(start.resolve())
    loaded = load_recipe(path or ADAPT_RECIPE, changes, options)
    if path is None and not loaded.data.books and not loaded.data.datasets:
        if training.is_first_process():
            common.console.print(
                "no texts to train on: keys are hidden in five sentences again and again, and the memory will do worse "
                "in real text; name some with --books"
            )
        options["data"] = {"book_share": 0.0, "mixture": {"text": 0.0}}
        loaded = load_recipe(ADAPT_RECIPE, changes, options)
    return loaded
