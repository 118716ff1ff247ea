"""From what a user names to a model: a directory, a hub id, a GGUF file, the name of a pulled model, or `builtin`."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from infini_attention.errors import ConfigError, InfiniError, ModelError
from infini_attention.models.adapter import apply_adapter, read_adapter_header
from infini_attention.models.conversion import check_convertible, convert
from infini_attention.models.known import BUILTIN, KNOWN, builtin_path, pulled_path, shipped_adapter_path
from infini_attention.models.quantized import check_int8, quantize

GGUF_MAGIC = b"GGUF"
NO_ADAPTER = "none"
# What Transformers raises over files that are damaged, or that it cannot read.
_LOADING_ERRORS = (
    OSError,
    ValueError,
    LookupError,
    RuntimeError,
    AssertionError,
    AttributeError,
    TypeError,
    SafetensorError,
)


def load_model(
    source: str | Path,
    adapter: str | Path | None = None,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    **settings: Any,
) -> PreTrainedModel:
    """Loads an Infini model, or loads a base model and gives it a memory: an adapter's, or a new one by `convert`.

    Args:
        source: a directory, a .gguf file, the name of a pulled model, a hub id, or `builtin`.
        adapter: the file of an adapter for this base model, or `none`; None means what `find_adapter` finds.
        dtype: of the weights; None keeps what was saved. `torch.int8` is for decoding on the CPU: linear layers have
            int8 weights (see `quantize`), all else is float32, and the model can neither be trained nor saved.
        device: where to put it; None means the CPU.
        settings: of `convert`, for a base model only; beside an adapter, `segment_size` alone.

    Raises:
        ModelError: nothing there, a damaged file, an unsupported family, an adapter for another model.
        ConfigError: a setting that the adapter brings with it, or one that cannot work.
    """
    if dtype == torch.int8:
        check_int8(device)
    name, found = resolve(source), find_adapter(source, adapter, settings)
    if found is not None:
        read_adapter_header(found)  # before the weights are read
    if not (isinstance(name, Path) and name.suffix == ".gguf"):
        config = _from_pretrained(AutoConfig, name)
        if not hasattr(config, "infini"):
            check_convertible(config)  # before the weights are read
        elif found is not None:
            raise ModelError(f"{source} is an Infini model already, with a memory of its own: it takes no adapter")
        elif settings:
            raise ModelError(f"{source} is an Infini model already: its {', '.join(settings)} cannot be set again")
    model = _load(source, dtype, device)
    if not hasattr(model.config, "infini"):
        model = convert(model, **settings).eval() if found is None else apply_adapter(model, found, **settings)
    return quantize(model) if dtype == torch.int8 else model


def find_adapter(source: str | Path, adapter: str | Path | None = None, settings: Iterable[str] = ()) -> Path | None:
    """The adapter's file that `load_model` uses, or None.

    Unless one is named, it is the one that comes with this package for a known model; that one is left out where other
    settings are asked for than a segment size.

    Raises:
        ConfigError: such settings beside an adapter that is named.
    """
    others = sorted({*settings} - {"segment_size"})
    if adapter == NO_ADAPTER:
        return None
    if adapter is None:
        shipped = shipped_adapter_path(str(source))
        known = str(source) in KNOWN and resolve(source) == pulled_path(str(source)) and shipped.is_file()
        return shipped if known and not others else None
    if others:
        raise ConfigError(
            f"{', '.join(others)} cannot be set beside {adapter}, which brings its own: leave out one or the other"
        )
    return Path(adapter).expanduser()


def load_base(
    source: str | Path, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> PreTrainedModel:
    """Loads a causal language model as it is, of any family, and converts nothing.

    Args:
        source, dtype, device: as for `load_model`.

    Raises:
        ModelError: nothing there, a damaged file, or an Infini model, which is none.
        ConfigError: int8 weights for another device than the CPU.
    """
    if dtype == torch.int8:
        check_int8(device)
    if is_infini(source):
        raise ModelError(f"{source} is an Infini model: it has no full attention; name the base model that it was")
    model = _load(source, dtype, device)
    return quantize(model) if dtype == torch.int8 else model


def _load(source: str | Path, dtype: torch.dtype | None, device: torch.device | str | None) -> PreTrainedModel:
    """What is saved there, an Infini model or a base model; float32 where int8 weights will be made of it."""
    name, dtype = resolve(source), torch.float32 if dtype == torch.int8 else dtype
    if isinstance(name, Path) and name.suffix == ".gguf":
        model = load_gguf(name)
        if dtype is not None:
            model = model.to(dtype)  # type: ignore[arg-type]
    else:
        model = _whole_model(name, dtype="auto" if dtype is None else dtype, use_safetensors=True)  # never pickle
    return model.to(device or "cpu").eval()  # type: ignore[arg-type]


def is_infini(source: str | Path) -> bool:
    """Whether `source` is an Infini model already, rather than a base model to convert."""
    name = resolve(source)
    if isinstance(name, Path) and name.suffix == ".gguf":
        return False
    return hasattr(_from_pretrained(AutoConfig, name), "infini")


def load_tokenizer(source: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer beside a model."""
    name = resolve(source)
    if isinstance(name, Path) and name.suffix == ".gguf":
        check_gguf(name)
        return _from_pretrained(AutoTokenizer, name.parent, gguf_file=name.name)
    return _from_pretrained(AutoTokenizer, name)


def resolve(source: str | Path) -> str | Path:
    """The path that `source` stands for, or the hub id that it is. Raises `ModelError` where it is neither."""
    if source == BUILTIN:
        if not (builtin_path() / "config.json").is_file():
            raise ModelError(
                f"this installation lacks the built-in weights: no config.json in {builtin_path()}; name another model"
            )
        return builtin_path()
    path = Path(source).expanduser()
    if path.is_dir() or path.suffix == ".gguf":
        if not path.exists():
            raise ModelError(f"no such file: {path}")
        return path
    if str(source) in KNOWN:
        if not pulled_path(str(source)).exists():
            raise ModelError(f"{source} is not here yet: run `infini pull {source}`")
        return pulled_path(str(source))
    if path.exists():
        raise ModelError(f"{path} is not a model: expected a directory with config.json, or a .gguf file")
    if str(source).count("/") == 1 and not str(source).startswith((".", "/", "~")):
        return str(source)
    raise ModelError(
        f"no model at {source!r}: expected a directory, a .gguf file, a hub id (owner/name) or one of "
        f"{', '.join([BUILTIN, *KNOWN])}"
    )


def load_gguf(path: Path) -> PreTrainedModel:
    """The base model in a GGUF file, dequantised. Raises `ModelError` where the file is damaged or unsupported."""
    check_gguf(path)
    model = _whole_model(path.parent, gguf_file=path.name, dtype=torch.float32)
    # The weights are plain float32 now, but Transformers still calls them quantised and would refuse to save them.
    model.hf_quantizer, model.is_quantized = None, False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return model


def check_gguf(path: Path) -> None:
    """Raises `ModelError` unless every tensor that the header of a GGUF file names lies inside the file."""
    with path.open("rb") as file:
        magic = file.read(len(GGUF_MAGIC))
    if magic != GGUF_MAGIC:
        raise ModelError(f"{path} is not a GGUF file: it starts with {magic!r}, expected {GGUF_MAGIC!r}")
    from gguf import GGUFReader

    try:
        tensors = GGUFReader(path).tensors
        end = max(tensor.data_offset + tensor.n_bytes for tensor in tensors)
    except (ValueError, IndexError, KeyError, OverflowError, MemoryError) as error:
        raise ModelError(f"{path} is cut short or damaged ({error}); fetch it again") from error
    if end > path.stat().st_size:
        raise ModelError(f"{path} is cut short: it should have {end} bytes; fetch it again")


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keeps Transformers' own progress bars and reports out of our output."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _whole_model(name: str | Path, **options: Any) -> Any:
    """Raises `ModelError` where Transformers would leave weights random."""
    options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
    model, info = _from_pretrained(AutoModelForCausalLM, name, **options)
    named = _name_of(name, options)
    if info["missing_keys"]:
        raise ModelError(f"{named} lacks weights: {', '.join(sorted(info['missing_keys']))}; fetch it again")
    for key, found, expected in sorted(info["mismatched_keys"])[:1]:
        raise ModelError(
            f"{named} does not fit its own configuration: {key} is {list(found)}, expected {list(expected)}; fetch it "
            "again, or another copy of the model"
        )
    return model


def _name_of(name: str | Path, options: dict[str, Any]) -> str | Path:
    return Path(name) / options["gguf_file"] if "gguf_file" in options else name


def _from_pretrained(auto: Any, name: str | Path, **options: Any) -> Any:
    try:
        with quiet_transformers():
            return auto.from_pretrained(name, **options)
    except InfiniError:
        raise
    except _LOADING_ERRORS as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ModelError(f"could not load {_name_of(name, options)}: {reason}") from error
