"""What the commands that train share: options, the log on stderr, and the result."""

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.logging import RichHandler

from infini_attention.cli.shared import common
from infini_attention.errors import ConfigError

if TYPE_CHECKING:
    from infini_attention.training.recipe import Recipe

Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME=VALUE", help="Replace an entry of the recipe, such as model.infini.rule=delta."
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint; start if there is none.")]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, help="Of torch.  [default: torch's own choice]", show_default=False)
]


def check_extra() -> None:
    """Raises `ConfigError` where the packages that training needs are not installed."""
    try:
        import infini_attention.training.recipe
        import infini_attention.training.run  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"{error}; training needs more: pip install 'infini-attention[train]'") from error


def is_first_process() -> bool:
    """Of several processes, only the first one tells how it goes."""
    return os.environ.get("RANK", "0") == "0"


def run_recipe(
    recipe: "Recipe",
    folder: Path,
    *,
    adapter: Path | None = None,
    resume: bool,
    threads: int | None,
    as_json: bool,
) -> None:
    """Trains, and puts the result on stdout.

    Args:
        recipe: what to do.
        folder: of the run.
        adapter: see `training.run.train`.
        resume, threads, as_json: the options.
    """
    import torch

    from infini_attention.training.run import train

    if threads is not None:
        torch.set_num_threads(threads)
    handler = RichHandler(console=common.console, show_path=False, markup=False)
    level = logging.INFO if is_first_process() else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s", handlers=[handler])
    result = train(recipe, folder, resume=resume, adapter=adapter)
    if result is None:
        return
    names = ("steps", "seconds", "parameters", "trained_parameters", "threads", "model", "adapter")
    shown: dict[str, Any] = {name: result[name] for name in names if name in result}
    common.emit(result if as_json else shown | result["last"], as_json=as_json)
