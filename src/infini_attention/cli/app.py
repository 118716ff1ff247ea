"""Puts the subcommands together. A user's mistake is one line on stderr and exit code 2, never a traceback."""

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from infini_attention import __version__
from infini_attention.cli import (
    adapt,
    ask,
    bench,
    chat,
    convert,
    demo,
    generate,
    inspect,
    pull,
    read,
    report,
    serve,
    session,
    train,
)
from infini_attention.cli.eval import app as eval
from infini_attention.errors import InfiniError

EXIT_MISTAKE, EXIT_INTERRUPTED = 2, 130

app = typer.Typer(
    name="infini",
    help="Language models that read without end, in a bounded memory.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for _module in (demo, pull, convert, read, ask, chat, generate, serve, inspect, report, adapt, train, bench):
    app.command(_module.NAME)(_module.run)
for _group in (session, eval):
    app.add_typer(_group.app, name=_group.NAME)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        print(f"infini-attention {__version__}")
        raise typer.Exit


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and exits."""
    arguments = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        code = app(args=arguments, prog_name="infini", standalone_mode=False)
    except typer.TyperException as error:
        code = _mistake(error.format_message())
    except InfiniError as error:
        code = _mistake(str(error))
    except (typer.Abort, KeyboardInterrupt):
        code = EXIT_INTERRUPTED
    sys.exit(code or 0)


def _mistake(message: str) -> int:
    print(f"infini: {' '.join(message.split())}", file=sys.stderr)
    return EXIT_MISTAKE
