"""Reports as one HTML file each: no script, nothing fetched, readable on a phone, in light and in dark."""

import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from infini_attention.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, **values: Any) -> str:
    """The page that a template of this package makes of `values`; whatever is text in them is escaped."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,  # a misspelt name is an error, not an empty place
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["count"] = "{:,}".format
    return environment.get_template(template).render(values)


def inline_svg(figure: "Figure") -> str:
    """A figure to stand in a page: its text is text, and what is black has the colour of the page's text.

    Matplotlib has escaped what is text in it: a template shows it with `| safe`.
    """
    from matplotlib import rc_context

    buffer, nothing = io.StringIO(), dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "infini"}):  # the same bytes each time
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = buffer.getvalue()
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg[svg.index("<svg") :])  # HTML needs neither prologue nor namespaces
    return svg.replace("#000000", "currentColor")


def save_page(page: str, path: Path) -> None:
    """Writes a page; the file appears whole or not at all. Raises `InputError` where it cannot be written."""
    scratch = path.with_name(f".{path.name}.part")
    try:
        scratch.write_bytes(page.encode("utf-8", "backslashreplace"))  # the name of a file may be no text
        scratch.replace(path)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise InputError(f"{path}: could not be written ({error.strerror}); nothing was changed") from error
