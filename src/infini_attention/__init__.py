"""Language models that read without end: Infini-attention (arXiv 2404.07143) in a bounded memory."""

from importlib import import_module
from typing import Any

from infini_attention.ops import infini_attention
from infini_attention.state import InfiniState

__version__ = "0.1.0.dev0"

# Loaded on first use: Transformers is not imported for those who only need the operation.
_LAZY = {
    "InfiniAttention": "infini_attention.nn",
    "convert": "infini_attention.models",
    "load_model": "infini_attention.models",
    "InfiniCache": "infini_attention.models",
    "InfiniLlamaConfig": "infini_attention.models",
    "InfiniLlamaForCausalLM": "infini_attention.models",
    "Session": "infini_attention.sessions",
}

__all__ = ["InfiniState", "infini_attention", *_LAZY]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
