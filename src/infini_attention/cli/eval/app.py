"""infini eval: what a model remembers."""

import typer

from infini_attention.cli.eval import babilong, mqar, perplexity, recall, retention, ruler, summary

NAME = "eval"

app = typer.Typer(help="Measure what a model remembers, and its controls.", rich_markup_mode=None)
for _name, _command in (
    (recall.PASSKEY, recall.passkey),
    (recall.KEYS, recall.keys),
    (recall.FACTS, recall.facts),
    (ruler.NEEDLE, ruler.needle),
    (ruler.RULER, ruler.ruler),
    (mqar.NAME, mqar.run),
    (retention.NAME, retention.run),
    (babilong.NAME, babilong.run),
    (perplexity.NAME, perplexity.run),
    (summary.NAME, summary.run),
):
    app.command(_name)(_command)


@app.callback(invoke_without_command=True)
def _root(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())
