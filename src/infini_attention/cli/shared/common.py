"""What the subcommands share: options, output, and how a model is opened."""

import json
import re
import resource
import sys
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from infini_attention.errors import ConfigError, InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from infini_attention.sessions import Session, SnapshotHeader

DEFAULT_MODEL = "smollm2-135m"
SHIPPED = "default"  # an adapter that comes with this package, in a session

console = Console(stderr=True)  # progress and remarks; stdout is for results


class RuleName(StrEnum):
    """How the memory is written."""

    linear = "linear"
    delta = "delta"
    gated_delta = "gated_delta"
    none = "none"


class DTypeName(StrEnum):
    """The dtype of the weights; the memory is always float32."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"
    int8 = "int8"


Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="A directory, a hub id, a .gguf file, a pulled model, or builtin.  "
        f"[default: {DEFAULT_MODEL}, or the session's]",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout; progress stays on stderr.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an output that exists.")]
SegmentSize = Annotated[
    int | None, typer.Option("--segment-size", help="Tokens per segment, for a base model.  [default: 1024]")
]
Rule = Annotated[
    RuleName | None, typer.Option("--rule", help="How the memory is written, for a base model.  [default: gated_delta]")
]
Adapter = Annotated[
    str | None,
    typer.Option(
        "--adapter",
        metavar="FILE",
        help="An adapter's file, or none.  [default: the one shipped for the model, if any]",
        show_default=False,
    ),
]
DType = Annotated[
    DTypeName | None,
    typer.Option("--dtype", help="Of the weights; int8 writes faster, on the CPU alone.  [default: as saved]"),
]
Device = Annotated[str, typer.Option("--device", help="Where to run, such as cpu or cuda.")]


@dataclass(frozen=True)
class ModelOptions:
    """How to open a model."""

    source: str
    segment_size: int | None = None
    rule: RuleName | None = None
    dtype: DTypeName | None = None
    device: str = "cpu"
    full_attention: bool = False
    adapter: str | None = None

    def open(self, **settings: Any) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
        """The model and its tokenizer. `settings` of a conversion stand in for options that were not given."""
        import torch

        from infini_attention.models import load_model, load_tokenizer
        from infini_attention.models.loading import load_base

        check_device(self.device)
        settings |= self.settings
        if self.full_attention and (settings or self.adapter):
            names = [*settings, "adapter"] if self.adapter else settings
            given = " and ".join(f"--{name.replace('_', '-')}" for name in names)
            raise ConfigError(
                f"--full-attention converts nothing, so that {given} cannot be set; give one or the other"
            )
        dtype = None if self.dtype is None else getattr(torch, self.dtype.value)
        with console.status(f"loading {self.source}"):
            tokenizer = load_tokenizer(self.source)
            if self.full_attention:
                return load_base(self.source, dtype=dtype, device=self.device), tokenizer
            return load_model(self.source, self.adapter, dtype=dtype, device=self.device, **settings), tokenizer

    @property
    def settings(self) -> dict[str, Any]:
        """Those of a conversion that were given."""
        given = {"segment_size": self.segment_size, "rule": None if self.rule is None else self.rule.value}
        return {name: value for name, value in given.items() if value is not None}

    def used_adapter(self, **settings: Any) -> str:
        """The adapter that `open(**settings)` uses, by a name that lasts: see `SnapshotHeader`."""
        from infini_attention.models.loading import find_adapter

        found = None if self.full_attention else find_adapter(self.source, self.adapter, settings | self.settings)
        if found is None:
            return ""
        return SHIPPED if self.adapter is None else str(found.resolve())


def check_device(device: str) -> None:
    """Raises `ConfigError` where torch cannot use it here."""
    import torch

    try:
        torch.empty(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device {device!r} cannot be used here ({str(error).splitlines()[0]})") from error


def open_session(options: ModelOptions, path: Path | None, *, rewinds: bool = False) -> "Session":
    """A new session, or the one in `path`, opened with the model that it names unless another is asked for.

    It keeps a history only where it may be rewound, or goes to a store: a session file holds none.
    """
    from infini_attention.sessions import HistorySettings, Session, read_header

    history = HistorySettings() if rewinds else HistorySettings(max_bytes=0)
    if path is None:
        options = replace(options, source=options.source or DEFAULT_MODEL)
        return Session(*options.open(), name=lasting(options.source), adapter=options.used_adapter(), history=history)
    pair, name, adapter = open_as_read(options, read_header(path))
    return Session.load(path, *pair, name=name, adapter=adapter, history=history)


def open_as_read(
    options: ModelOptions, header: "SnapshotHeader"
) -> "tuple[tuple[PreTrainedModel, PreTrainedTokenizerBase], str, str]":
    """The model that a session was read with, unless another is asked for; what it is called, and its adapter."""
    from infini_attention.models import InfiniSettings
    from infini_attention.models.loading import NO_ADAPTER, is_infini

    options, settings = replace(options, source=options.source or header.model), {}
    if not is_infini(options.source):
        if options.adapter is None and header.adapter != SHIPPED:
            options = replace(options, adapter=header.adapter or NO_ADAPTER)
        settings = InfiniSettings.from_dict(header.settings).to_dict()
        settings.pop("backend")  # not of the conversion
        if options.adapter != NO_ADAPTER:  # which brings the others
            settings = {"segment_size": settings["segment_size"]}
    return options.open(**settings), lasting(options.source), options.used_adapter(**settings)


def lasting(source: str) -> str:
    """What finds the model again from another folder."""
    from infini_attention.models.known import BUILTIN

    if source == BUILTIN:
        return source
    return str(Path(source).expanduser().resolve()) if Path(source).expanduser().exists() else source


def check_output(path: Path, *, force: bool) -> None:
    """Raises `InputError` unless `path` can be made. Called before the work, not after it."""
    if path.exists() and not force:
        raise InputError(f"{path} exists already; give --force to replace it")
    if not path.parent.is_dir():
        raise InputError(f"{path}: its folder {path.parent} does not exist")


def emit(result: dict[str, Any], *, as_json: bool) -> None:
    """The result on stdout: one JSON object, or a line per entry."""
    if as_json:
        print(json.dumps(result))
        return
    width = max(map(len, result))
    for name, value in result.items():
        print(f"{name.replace('_', ' '):<{width}}  {_readable(name, value)}")


def emit_measured(result: dict[str, Any], *, as_json: bool) -> None:
    """`emit` for figures that depend on the machine: the JSON says which it was."""
    from infini_attention.environment import environment

    emit(result | (environment() if as_json else {}), as_json=as_json)


def peak_rss_bytes() -> int:
    """The largest resident set of this process so far."""
    status = Path("/proc/self/status")
    if status.exists():  # on Linux, ru_maxrss begins with what the parent process had
        found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text())
        if found:
            return int(found[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def human_bytes(count: int | float) -> str:
    """1234567 as 1.2 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _readable(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if name.endswith("_bytes"):
        return human_bytes(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}" if value < 1000 else f"{value:,.0f}"
