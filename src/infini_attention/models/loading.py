"""From what a user names to a model: a directory, a hub id, a GGUF file, the name of a pulled model, or `builtin`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from infini_attention.errors import InfiniError, ModelError
from infini_attention.models.conversion import check_convertible, convert
from infini_attention.models.known import BUILTIN, KNOWN, builtin_path, pulled_path

GGUF_MAGIC = b"GGUF"


def load_model(
    source: str | Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    **settings: Any,
) -> PreTrainedModel:
    """Loads an Infini model, or loads a base model and converts it on the fly.

    Args:
        source: a directory, a .gguf file, the name of a pulled model, a hub id, or `builtin`.
        dtype: of the weights; None keeps what was saved.
        device: where to put it; None means the CPU.
        settings: of `convert`, for a base model only.

    Raises:
        ModelError: nothing there, a damaged file, an unsupported family.
    """
    name = resolve(source)
    if isinstance(name, Path) and name.suffix == ".gguf":
        model = load_gguf(name)
        if dtype is not None:
            model = model.to(dtype)  # type: ignore[arg-type]
    else:
        config = _from_pretrained(AutoConfig, name)
        if not hasattr(config, "infini"):
            check_convertible(config)  # before the weights are read
        elif settings:
            raise ModelError(f"{source} is an Infini model already: its {', '.join(settings)} cannot be set again")
        # never pickle
        options = {"dtype": "auto" if dtype is None else dtype, "use_safetensors": True, "output_loading_info": True}
        model, info = _from_pretrained(AutoModelForCausalLM, name, **options)
        if info["missing_keys"]:  # Transformers would leave them random
            raise ModelError(f"{source} lacks weights: {', '.join(sorted(info['missing_keys']))}; fetch it again")
    model = model.to(device or "cpu").eval()  # type: ignore[arg-type]
    return model if hasattr(model.config, "infini") else convert(model, **settings).eval()


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
    model = _from_pretrained(AutoModelForCausalLM, path.parent, gguf_file=path.name, dtype=torch.float32)
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


def _from_pretrained(auto: Any, name: str | Path, **options: Any) -> Any:
    try:
        with quiet_transformers():
            return auto.from_pretrained(name, **options)
    except InfiniError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"could not load {name}: {reason}") from error
