"""Reads vectors of strings out of an R package's data file (`Rdata.rdb`), without R."""

import io
import zlib
from collections.abc import Iterator

HEADER = b"X\n"  # R's portable binary format
ENCODED = 3  # from this version on, the header also names the native encoding
CHARSXP, STRSXP = 9, 16
LATIN1 = 4 << 12  # a flag of a CHARSXP; the others are ASCII or UTF-8


class RDataError(ValueError):
    """Bytes that are no string vectors in R's data format."""


def objects(rdb: bytes) -> Iterator[bytes]:
    """The serialised objects of a file, in order: each is its size in 4 bytes, then a zlib stream."""
    start = 0
    while start < len(rdb):
        inflater = zlib.decompressobj()
        try:
            body = inflater.decompress(rdb[start + 4 :])
        except zlib.error as error:
            raise RDataError(f"expected a zlib stream at byte {start + 4}: {error}") from error
        size = int.from_bytes(rdb[start : start + 4])
        if not inflater.eof or len(body) != size:
            raise RDataError(
                f"expected {size} bytes in the object at byte {start}, got {len(body)}: is the file whole?"
            )
        yield body
        start = len(rdb) - len(inflater.unused_data)


def strings(body: bytes) -> list[str]:
    """The strings of one serialised character vector."""
    stream = io.BytesIO(body)

    def take(size: int) -> bytes:
        taken = stream.read(size)
        if len(taken) < size:
            raise RDataError(f"expected {size} more bytes, got {len(taken)}: the serialisation ends early")
        return taken

    def integer() -> int:
        return int.from_bytes(take(4), signed=True)

    def string() -> str:
        flags, size = integer(), integer()
        if flags & 0xFF != CHARSXP or size < 0:
            raise RDataError(f"expected a string at byte {stream.tell() - 8}, got flags {flags:#x} and size {size}")
        return take(size).decode("latin-1" if flags & LATIN1 else "utf-8")

    if (header := stream.read(2)) != HEADER:
        raise RDataError(f"expected a serialisation that begins with {HEADER!r}, got {header!r}")
    version, _, _ = (
        integer(),
        integer(),
        integer(),
    )  # of the format, of the R that wrote it, of the oldest that reads it
    if version >= ENCODED:
        take(integer())
    if (flags := integer()) != STRSXP:
        raise RDataError(f"expected a plain character vector (flags {STRSXP:#x}), got flags {flags:#x}")
    vector = [string() for _ in range(integer())]
    if left := len(body) - stream.tell():
        raise RDataError(f"expected the end after {len(vector)} strings, got {left} more bytes")
    return vector
