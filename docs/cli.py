"""Writes docs/cli.md: every command's --help. Run by `make docs`; a test compares the file with what it would write."""

from pathlib import Path

from typer.testing import CliRunner

from infini_attention.cli.app import app

COMMANDS = ("", "demo", "pull", "convert", "read", "ask", "chat", "generate", "serve", "inspect", "report", "adapt")
COMMANDS += ("train", "session ls", "session show", "session fork", "session rewind", "session verify")
COMMANDS += (
    "session rebuild",
    "session rm",
    "eval",
    "eval passkey",
    "eval keys",
    "eval facts",
    "eval needle",
    "eval ruler",
)
COMMANDS += ("eval mqar", "eval retention", "eval babilong", "eval perplexity", "eval summary", "bench")
PAGE = Path(__file__).with_suffix(".md")


def page() -> str:
    """The whole page."""
    parts = ["# The command line\n\nWritten by `make docs`.\n"]
    for command in COMMANDS:
        arguments = [*command.split(), "--help"]
        done = CliRunner().invoke(app, arguments, prog_name="infini", terminal_width=100, catch_exceptions=False)
        text = "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())
        parts.append(f"## infini {command}".rstrip() + f"\n\n```text\n{text}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page())
