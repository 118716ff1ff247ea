"""What `--monitor` adds to reading: a collector, its file, a live table, and figures."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infini_attention.cli.shared import common
from infini_attention.cli.shared.memory_table import live_table, metric_lines, print_layers
from infini_attention.cli.shared.progress import ReadProgress

if TYPE_CHECKING:
    from infini_attention.sessions import Session

Watch = Annotated[
    bool, typer.Option("--monitor", help="Look at the memory now and then; a live table, and figures at the end.")
]
WatchFile = Annotated[
    Path | None,
    typer.Option("--monitor-file", help="--monitor, and each look as a JSON line of this file, for infini inspect."),
]
WatchEvery = Annotated[
    int | None,
    typer.Option(
        "--monitor-every",
        min=1,
        help="Tokens between looks, on the way.  [default: as 1.5% of the time allows]",
        show_default=False,
    ),
]

FREE_LINES = 8  # of a terminal: the bar, the table's title and head, the prompt


class Monitor:
    """Watches a session while it reads.

    Args:
        stream: the session.
        path: of the file of JSON lines, if there shall be one.
        every: tokens between looks; None keeps to a share of the time.
    """

    def __init__(self, stream: "Session", path: Path | None = None, every: int | None = None) -> None:
        from infini_attention.monitor import Collector
        from infini_attention.monitor.file import about_model

        self.about, self.path = about_model(stream.model, stream.name), path
        self.collector = Collector(stream.model, every=every)

    @contextmanager
    def following(self, progress: ReadProgress) -> Iterator[None]:
        """Looks at what is read inside the block, and shows it below the bar."""
        from infini_attention.monitor.file import MonitorFile
        from infini_attention.monitor.summary import current_layers

        with ExitStack() as stack:
            file = None if self.path is None else stack.enter_context(MonitorFile(self.path, self.about))

            def show(record: dict[str, Any]) -> None:
                if file is not None:
                    file.write(record)
                if "mark" in record and not progress.disable:
                    rows = progress.console.height - FREE_LINES
                    progress.below = live_table(record["mark"], current_layers(self.collector.marks), rows)

            self.collector.on_record = show
            stack.enter_context(self.collector)
            yield

    def figures(self) -> dict[str, Any] | None:
        """What `infini read --json` calls `monitor`; None where nothing was read."""
        from infini_attention.evaluation.inspection import summarize
        from infini_attention.monitor.file import Recording

        if not self.collector.marks:
            return None
        result = summarize(Recording(self.about, self.collector.marks, self.collector.probes))
        names = ("metrics", "layers", "retention", "marks")
        return {name: result[name] for name in names} | {"seconds": round(self.collector.cost, 6)}


def print_memory(figures: dict[str, Any]) -> None:
    """For people: the six metrics, and a row per layer and head."""
    common.emit(metric_lines(figures["metrics"]), as_json=False)
    print()
    print_layers(figures["layers"], figures["retention"])
