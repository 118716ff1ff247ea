"""infini read: figures that add up, sessions that go on."""

import gc
import io
import sys
from types import FunctionType, ModuleType

import pytest
import torch

from infini_attention.cli.shared import common
from tiny import SEGMENT, book

FIGURES = {
    "tokens_read",
    "seconds",
    "tokens_per_second",
    "state_bytes",
    "full_kv_bytes",
    "peak_rss_bytes",
    "peak_rss_bytes_after_100k",
    "first_tenth_tokens_per_second",
    "last_tenth_tokens_per_second",
    "tokens_in_window",
    "tokens_compressed",
    "dropped_tokens",
    "bits_per_byte",
    "perplexity",
}
TIMES = {
    "seconds",
    "tokens_per_second",
    "first_tenth_tokens_per_second",
    "last_tenth_tokens_per_second",
    "peak_rss_bytes",
    "session",
}


@pytest.fixture
def read(run_json, model_dir):
    def read(*args):
        return run_json("read", *args, "-m", model_dir)

    return read


def assert_same(out, ref, *, but=()):
    """The same figures, but for rounding and what depends on the machine."""
    for name in ref.keys() - TIMES - {*but}:
        assert out[name] == (pytest.approx(ref[name], rel=1e-5) if isinstance(ref[name], float) else ref[name]), name


def test_the_figures_add_up(read, text):
    result = read(text)
    assert result.keys() >= FIGURES
    count = text.stat().st_size  # one token per byte
    assert result["tokens_read"] == result["tokens_seen"] == count
    assert result["tokens_in_window"] == count % SEGMENT
    assert result["tokens_in_window"] + result["tokens_compressed"] == count
    assert result["dropped_tokens"] == 0
    assert result["full_kv_bytes"] == count * 2 * 2 * 2 * 8 * 4  # keys and values, layers, KV heads, head size, float32
    assert result["state_bytes"] < result["full_kv_bytes"]
    assert result["peak_rss_bytes"] > 1 << 26
    assert 4 < result["bits_per_byte"] < 20
    assert result["perplexity"] == pytest.approx(2 ** (result["bits_per_byte"] * count / (count - 1)))
    assert result["tokens_per_second"] == pytest.approx(count / result["seconds"], rel=0.1)
    assert result["interrupted"] is False


def test_as_text(run_cli, model_dir, text):
    code, out, err = run_cli("read", text, "-m", model_dir)
    assert (code, err) == (0, "")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert f"tokens read {text.stat().st_size:,}" in lines
    assert "dropped tokens 0" in lines


@pytest.mark.parametrize("chunk_size", [37, 5 * SEGMENT, 100_000])
def test_chunk_size_changes_nothing(read, text, chunk_size):
    assert_same(read(text, "--chunk-size", chunk_size), read(text))


def test_standard_input(read, text, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.read_bytes())))
    assert_same(read("-"), read(text))


def test_several_files_are_one_text(read, text, tmp_path):
    parts = [tmp_path / "1.txt", tmp_path / "2.txt"]
    parts[0].write_text(book(3000)[:1234], encoding="utf-8")
    parts[1].write_text(book(3000)[1234:], encoding="utf-8")
    assert_same(read(*parts), read(text))


def test_encoding(read, tmp_path):
    content = "Grüße aus Zürich. " * 20
    for encoding in ("utf-8", "latin-1", "utf-16"):
        (tmp_path / encoding).write_text(content, encoding=encoding)
    ref = read(tmp_path / "utf-8")
    for encoding in ("latin-1", "utf-16"):
        assert_same(read(tmp_path / encoding, "--encoding", encoding), ref)


def test_max_tokens(read, text):
    assert read(text, "--max-tokens", 100)["tokens_read"] == 100
    assert read(text, "--max-tokens", "1K")["tokens_read"] == 1024


def test_without_scores(read, text):
    result = read(text, "--no-score")
    assert (result["bits_per_byte"], result["perplexity"]) == (None, None)


def test_go_on_from_a_session(read, text, tmp_path):
    first, second = tmp_path / "1.txt", tmp_path / "2.txt"
    first.write_text(book(3000)[:1000], encoding="utf-8")
    second.write_text(book(3000)[1000:], encoding="utf-8")
    session = tmp_path / "session"
    assert read(first, "-o", session)["session"] == str(session)
    saved = session.read_bytes()
    rest = read(second, "--from", session)
    assert session.read_bytes() == saved
    assert rest["tokens_read"] == second.stat().st_size
    assert_same(rest, read(text), but={"tokens_read"})


def test_a_session_knows_its_model(run_json, read, text, tmp_path):
    session = tmp_path / "session"
    read(text, "-o", session)
    assert run_json("read", text, "--from", session)["tokens_seen"] == 2 * text.stat().st_size


def test_resume(read, text, tmp_path):
    session = tmp_path / "session"
    read(text, "-o", session, "--max-tokens", 777)
    rest = read(text, "-o", session, "--resume")
    assert rest["tokens_read"] == text.stat().st_size - 777
    assert_same(rest, read(text), but={"tokens_read"})
    assert read(text, "-o", session, "--resume")["tokens_read"] == 0


def test_a_base_model_is_converted_on_the_way_and_again_for_its_session(run_json, base_dir, text, tmp_path):
    session = tmp_path / "session"
    options = ("--segment-size", 32, "--rule", "delta")
    first = run_json("read", text, "-m", base_dir, *options, "-o", session)
    again = run_json("read", text, "--from", session)
    assert first["segment_size"] == again["segment_size"] == 32
    assert again["tokens_seen"] == 2 * first["tokens_read"]


def test_force_replaces_a_session(read, text, tmp_path):
    session = tmp_path / "session"
    session.write_text("old")
    read(text, "-o", session, "--force")
    assert read(text, "--from", session)["tokens_read"] == text.stat().st_size


def kept_bytes(root):
    """Of all that can be reached from here: whole storages of tensors, each once, and Python's own objects."""
    found, sizes = [root], {}
    for each in found:
        if id(each) in sizes or isinstance(each, type | ModuleType | FunctionType):
            continue
        sizes[id(each)] = sys.getsizeof(each)
        if isinstance(each, torch.Tensor):
            sizes[each.untyped_storage().data_ptr()] = each.untyped_storage().nbytes()
        found += gc.get_referents(each)
    return sum(sizes.values())


def test_what_is_kept_does_not_grow_with_the_text(run_json, model_dir, tmp_path, monkeypatch):
    """Nor with its logarithm, nor with the chunks that it is read in."""
    opened, kept = [], []

    def open_session(*args, **options):
        opened.append(ref(*args, **options))
        return opened[-1]

    ref = common.open_session
    monkeypatch.setattr(common, "open_session", open_session)
    for blocks, chunk_size in ((1, 4 * SEGMENT), (32, 4 * SEGMENT), (32, 64 * SEGMENT)):  # whole blocks of the digest
        path = tmp_path / f"{blocks}.txt"
        path.write_bytes(b"0123456789abcdef" * 64 * blocks)
        result = run_json("read", path, "-m", model_dir, "--chunk-size", chunk_size)
        assert result["tokens_read"] == blocks * 1024
        kept.append(kept_bytes(opened[-1].position))
    print(f"{kept} bytes")
    assert kept[0] > result["state_bytes"]
    assert max(kept[1:]) <= kept[0]
