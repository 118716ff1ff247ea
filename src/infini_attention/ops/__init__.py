"""Tensors in, tensors out: knows no module and no configuration."""

from infini_attention.ops.attention import infini_attention

__all__ = ["infini_attention"]
