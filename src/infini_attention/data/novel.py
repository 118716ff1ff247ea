"""The novel that comes with the package: real text to hide things in."""

from pathlib import Path

from infini_attention.errors import InputError

BOOK = "northanger-abbey.txt"


def book_path() -> Path:
    """The novel, in a checkout or in an installed package."""
    package = Path(__file__).parents[1]
    for path in (package / "books" / BOOK, package.parents[1] / "examples" / "books" / BOOK):
        if path.is_file():
            return path
    raise InputError(f"the novel {BOOK} is missing from this installation; name a text of yours instead")
