"""Where a store keeps its bytes: a folder, or anything that fsspec opens, such as a bucket."""

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from infini_attention.errors import StoreError
from infini_attention.models.tensor_file import replace_file, sync_folder

_KEY = re.compile(r"(parts|sessions)(/[A-Za-z0-9._-]+)*")


class Blobs(Protocol):
    """Bytes by key. Keys are relative paths that the store makes up: digests, checked names, and numbers.

    All methods raise `StoreError` where the disk is full, read-only, or out of reach.
    """

    def write(self, key: str, content: bytes) -> None:
        """Returns once `content` is kept for good; a key that is there is replaced whole."""

    def read(self, key: str, limit: int) -> bytes:
        """The bytes, and at most `limit`. Raises `FileNotFoundError` for a key that is not there."""

    def size(self, key: str) -> int | None:
        """Bytes of a key; None where it is not there."""

    def delete(self, key: str) -> None:
        """Nothing happens where it is not there."""

    def keys(self, prefix: str) -> Iterator[str]:
        """All keys below a folder."""

    def clean(self, age: float) -> None:
        """Removes what writers that were killed more than `age` seconds ago have left behind."""


class FolderBlobs:
    """In a folder of this machine.

    Args:
        folder: made on the first write.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, key: str, content: bytes) -> None:
        path = self._path(key)
        try:
            make_folder(path.parent)
            replace_file(path, content, 0o600)
        except OSError as error:
            raise _failed(path, "written", error) from error

    def read(self, key: str, limit: int) -> bytes:
        try:
            with self._path(key).open("rb") as file:
                return file.read(limit)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise _failed(self._path(key), "read", error) from error

    def size(self, key: str) -> int | None:
        try:
            return self._path(key).stat().st_size
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _failed(self._path(key), "read", error) from error

    def delete(self, key: str) -> None:
        try:
            self._path(key).unlink(missing_ok=True)
        except OSError as error:
            raise _failed(self._path(key), "deleted", error) from error

    def keys(self, prefix: str) -> Iterator[str]:
        for path in sorted((self.folder / prefix).rglob("*")):
            if path.is_file() and not path.name.startswith("."):
                yield path.relative_to(self.folder).as_posix()

    def _path(self, key: str) -> Path:
        return self.folder / _checked(key)

    def clean(self, age: float) -> None:
        for path in self.folder.rglob(".*.tmp"):
            try:
                if path.stat().st_mtime < time.time() - age:
                    path.unlink()
            except FileNotFoundError:
                continue  # its writer has finished
            except OSError as error:
                raise _failed(path, "deleted", error) from error


class UrlBlobs:
    """At an address of fsspec, such as `s3://bucket/folder`. What is written there has to be kept for good at once.

    Args:
        url: with a protocol whose package is installed.

    Raises:
        StoreError: an unknown protocol, or one whose package is missing.
    """

    def __init__(self, url: str) -> None:
        import fsspec

        try:
            found = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError, OSError) as error:
            raise StoreError(
                f"blobs cannot be kept at {url!r} ({error}); expected a folder or an fsspec URL"
            ) from error
        self.url = url
        self.system: Any = found[0]
        self.root = str(found[1]).rstrip("/")

    def write(self, key: str, content: bytes) -> None:
        path = self._path(key)
        try:
            self.system.makedirs(path.rpartition("/")[0], exist_ok=True)
            self.system.pipe_file(path, content)
        except OSError as error:
            raise _failed(f"{self.url}/{key}", "written", error) from error

    def read(self, key: str, limit: int) -> bytes:
        try:
            return bytes(self.system.cat_file(self._path(key), start=0, end=limit))
        except FileNotFoundError:
            raise
        except OSError as error:
            raise _failed(f"{self.url}/{key}", "read", error) from error

    def size(self, key: str) -> int | None:
        try:
            self.system.invalidate_cache()
            return int(self.system.info(self._path(key))["size"])
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _failed(f"{self.url}/{key}", "read", error) from error

    def delete(self, key: str) -> None:
        try:
            self.system.rm_file(self._path(key))
        except FileNotFoundError:
            return
        except OSError as error:
            raise _failed(f"{self.url}/{key}", "deleted", error) from error

    def keys(self, prefix: str) -> Iterator[str]:
        try:
            self.system.invalidate_cache()
            found = self.system.find(self._path(prefix))
        except FileNotFoundError:
            return
        except OSError as error:
            raise _failed(f"{self.url}/{prefix}", "listed", error) from error
        for path in sorted(found):
            yield str(path).removeprefix(self.root).lstrip("/")

    def clean(self, age: float) -> None:
        """Nothing to do: an object is there whole or not at all."""

    def _path(self, key: str) -> str:
        return f"{self.root}/{_checked(key)}"


def open_blobs(where: str) -> Blobs:
    """By a folder or a URL. Raises `StoreError` where nothing can be kept there."""
    if where.startswith("file://"):
        return FolderBlobs(Path(where.removeprefix("file://")))
    return UrlBlobs(where) if "://" in where else FolderBlobs(Path(where))


def _checked(key: str) -> str:
    """A damaged index may say anything; no key leads out of the store. Raises `StoreError`."""
    if not _KEY.fullmatch(key) or ".." in key.split("/"):
        raise StoreError(
            f"{key!r:.200} is no blob of a store: its index is damaged; `infini session rebuild` makes a new one"
        )
    return key


def make_folder(folder: Path) -> None:
    """With those above it, all of them for good. Raises `OSError`."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True, mode=0o700)  # what was read can be asked for
        sync_folder(folder.parent)


def _failed(where: object, done: str, error: OSError) -> StoreError:
    return StoreError(f"{where}: could not be {done} ({error.strerror or error}); nothing that was stored is lost")
