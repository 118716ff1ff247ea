"""The `infini` command: one module per command, those of `infini eval` in eval/; shared/ is what they share."""

from infini_attention.cli.app import main

__all__ = ["main"]
