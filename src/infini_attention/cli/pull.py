"""infini pull: fetches a known model."""

from typing import Annotated

import typer

from infini_attention.cli.shared import common

NAME = "pull"


def run(
    name: Annotated[str, typer.Argument(help="A known model, such as smollm2-135m.")],
    force: common.Force = False,
    as_json: common.AsJson = False,
) -> None:
    """Fetch a known model, verified by its sha256."""
    from infini_attention.models.known import KNOWN
    from infini_attention.models.pulling import pull

    with common.console.status(f"pulling {name}") as status:
        path = pull(name, force=force, on_progress=lambda step: status.update(f"{name}: {step}"))
    known = KNOWN[name]
    size = sum(file.stat().st_size for file in path.iterdir())
    result = {"name": name, "path": str(path), "size_bytes": size, "sha256": known.sha256, "licence": known.licence}
    common.emit(result, as_json=as_json)
