"""The `infini` command: one module per subcommand."""

from infini_attention.cli.app import main

__all__ = ["main"]
