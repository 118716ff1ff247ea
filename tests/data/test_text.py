"""Text files: what is refused, and with which words; characters that blocks cut."""

import errno
import io
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infini_attention.data import check_text, read_blocks
from infini_attention.data.text import BLOCK_BYTES
from infini_attention.errors import InputError


class Dribble(io.RawIOBase):
    """A file that hands on a few bytes at a time, as a pipe may."""

    def __init__(self, content, sizes):
        self.content, self.sizes = io.BytesIO(content), sizes

    def read(self, size=-1):
        return self.content.read(min(size, self.sizes.pop(0)) if self.sizes else size)


def read_all(content, encoding="utf-8", sizes=()):
    return "".join(read_blocks(Dribble(content, list(sizes)), encoding))


def refusal(path, **options):
    with pytest.raises(InputError) as refused:
        check_text(path, **options)
    message = str(refused.value)
    assert str(path) in message
    return message


@pytest.fixture
def path(tmp_path):
    return tmp_path / "text.txt"


def test_a_good_file_gives_its_size(path):
    path.write_text("Grüße\n", encoding="utf-8")
    assert check_text(path) == 8


def test_missing(path):
    assert "no such file" in refusal(path)


def test_directory(tmp_path):
    assert "is a directory" in refusal(tmp_path)


def test_empty(path):
    path.touch()
    assert "is empty" in refusal(path)


def test_a_nul_means_binary(path):
    path.write_bytes(b"\x7fELF" + bytes(4))
    assert "binary" in refusal(path)


@pytest.mark.parametrize("offset", [0, 5, BLOCK_BYTES - 1, BLOCK_BYTES, 300_000])
def test_a_byte_that_is_not_utf8_is_named_with_its_offset(path, offset):
    path.write_bytes(b"a" * offset + b"\xff" + b"b" * 10)
    message = refusal(path)
    assert f"byte 0xff at offset {offset}" in message
    assert "--encoding" in message


def test_a_character_cut_short_at_the_end(path):
    path.write_bytes(b"a" * BLOCK_BYTES + "é".encode()[:1])
    assert f"byte 0xc3 at offset {BLOCK_BYTES}" in refusal(path)


@pytest.mark.parametrize("encoding", ["no-such", "base64", "rot13", "undefined", "ütf"])
def test_unknown_encodings(path, encoding):
    path.write_text("a")
    with pytest.raises(InputError, match="unknown encoding"):
        check_text(path, encoding)


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16", "utf-16-le", "utf-32", "utf-8-sig", "shift_jis"])
def test_other_encodings(path, encoding):
    text = "caf\u00e9 " if encoding != "shift_jis" else "\u30ab\u30d5\u30a7 "
    content = (text * 20_000).encode(encoding)
    path.write_bytes(content)
    assert check_text(path, encoding) == len(content)
    with path.open("rb") as file:
        assert "".join(read_blocks(file, encoding)) == text * 20_000


def test_utf16_without_its_mark_is_refused(path):
    path.write_bytes("text".encode("utf-16-le"))
    assert "not utf-16 text (UTF-16 stream does not start with BOM)" in refusal(path, encoding="utf-16")


def test_utf16_read_as_utf8_is_refused(path):
    path.write_bytes("text".encode("utf-16"))
    assert "not utf-8 text (byte 0xff at offset 0)" in refusal(path)


def test_a_pipe_is_not_read_ahead(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert check_text(pipe) is None


def test_a_file_that_may_not_be_read(path, monkeypatch):
    def denied(*args):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    path.write_text("a")
    monkeypatch.setattr(type(path), "open", denied)
    assert "cannot be read (Permission denied)" in refusal(path)


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1), st.lists(st.integers(1, 4)))
def test_characters_cut_between_blocks(text, sizes):
    assert read_all(text.encode(), sizes=sizes) == text


def test_no_block_is_larger_than_the_limit():
    blocks = list(read_blocks(io.BytesIO("aé€😀".encode() * 50_000)))
    assert "".join(blocks) == "aé€😀" * 50_000
    assert max(len(block.encode()) for block in blocks) <= BLOCK_BYTES + 3
