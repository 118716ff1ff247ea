"""Infini-attention inside Hugging Face models: the only place that imports Transformers' model code."""

from infini_attention.models.adapter import apply_adapter, read_adapter_header, save_adapter
from infini_attention.models.cache import InfiniCache
from infini_attention.models.config import InfiniSettings
from infini_attention.models.conversion import convert
from infini_attention.models.loading import load_model, load_tokenizer
from infini_attention.models.twins import InfiniLlamaConfig, InfiniLlamaForCausalLM, InfiniLlamaModel

__all__ = [
    "InfiniCache",
    "InfiniLlamaConfig",
    "InfiniLlamaForCausalLM",
    "InfiniLlamaModel",
    "InfiniSettings",
    "apply_adapter",
    "convert",
    "load_model",
    "load_tokenizer",
    "read_adapter_header",
    "save_adapter",
]
