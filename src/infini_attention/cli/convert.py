"""infini convert: writes the Infini twin of a model."""

import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from infini_attention.cli.shared import common
from infini_attention.errors import ConfigError, InputError, ModelError

NAME = "convert"


def run(
    model: Annotated[str, typer.Argument(help="A local directory, a hub id, a .gguf file, or a pulled model's name.")],
    out: Annotated[Path, typer.Argument(help="The directory to write.")],
    segment_size: common.SegmentSize = None,
    rule: common.Rule = None,
    adapter: common.Adapter = None,
    layers: Annotated[
        str | None, typer.Option("--layers", help="Layers that get a memory, such as 8-29 or 0,4,8.  [default: all]")
    ] = None,
    overlap: Annotated[
        int | None,
        typer.Option("--overlap", help="Tokens of the segment before that attention sees too.  [default: 0]"),
    ] = None,
    rank: Annotated[
        int | None,
        typer.Option(
            "--rank", help="Rank of the memory's own change of q and k.  [default: 16 for gated_delta, else 0]"
        ),
    ] = None,
    dtype: common.DType = None,
    force: common.Force = False,
    as_json: common.AsJson = False,
) -> None:
    """Turn a base model into its Infini twin.

    The twin is saved as a directory, with the adapter's memory, and with its LoRA in the weights if it has one. Without
    an adapter the memory is new: train it before relying on it.
    """
    from infini_attention.models.loading import is_infini, quiet_transformers

    common.check_output(out, force=force)
    if dtype is common.DTypeName.int8:
        raise ConfigError("--dtype int8 is made when a model is loaded and never saved: convert without it")
    if out.exists() and not (out / "config.json").is_file():
        raise InputError(f"{out} is no model's directory; --force replaces only those")
    if is_infini(model):
        raise ModelError(f"{model} is an Infini model already: load it as it is")
    extra = {"layers": parse_layers(layers), "rank": rank, "overlap": overlap}
    options = common.ModelOptions(model, segment_size, rule, dtype, adapter=adapter)
    settings = {name: value for name, value in extra.items() if value is not None}
    twin, tokenizer = options.open(**settings)
    try:
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch, quiet_transformers():
            whole = Path(scratch) / "model"
            twin.save_pretrained(whole)
            tokenizer.save_pretrained(whole)
            if out.exists():
                shutil.rmtree(out)
            whole.rename(out)  # the folder appears whole or not at all
    except OSError as error:
        raise InputError(f"{out}: could not be written ({error.strerror}); nothing was left behind") from error
    memory = sum(p.numel() for name, p in twin.named_parameters() if ".infini." in name)
    total = sum(p.numel() for p in twin.parameters())
    result = {"path": str(out), "model_type": twin.config.model_type, **twin.config.infini}
    result |= {"parameters": total, "memory_parameters": memory, "adapter": options.used_adapter(**settings) or None}
    common.emit(result, as_json=as_json)


def parse_layers(text: str | None) -> tuple[int, ...] | None:
    """`8-10,12` as (8, 9, 10, 12). Raises `ConfigError`."""
    if text is None:
        return None
    layers: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ConfigError(f"--layers must look like 8-29 or 0,4,8; got {text!r}")
        layers += range(int(first), int(last if dash else first) + 1)
    return tuple(layers)
