"""Modules: the memory's own parameters, and an attention block for people with a model of their own."""

from infini_attention.nn.attention import InfiniAttention
from infini_attention.nn.memory import InfiniMemory, MemoryInputs, MemorySettings

__all__ = ["InfiniAttention", "InfiniMemory", "MemoryInputs", "MemorySettings"]
