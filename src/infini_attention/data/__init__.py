"""Documents to token streams."""

from infini_attention.data.text import blocks_of, check_text, read_blocks
from infini_attention.data.tokens import TextPiece, tokenize_stream

__all__ = ["TextPiece", "blocks_of", "check_text", "read_blocks", "tokenize_stream"]
