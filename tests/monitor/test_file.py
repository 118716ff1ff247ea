"""Recordings: what a reader of the file finds, whatever happened to the writer."""

import json

import pytest

from infini_attention.errors import InputError
from infini_attention.monitor import Collector
from infini_attention.monitor.file import MonitorFile, about_model, read_recording
from tiny import book, infini_model, new_session


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A file, and the collector that wrote it."""
    path, model = tmp_path_factory.mktemp("recordings") / "stream.jsonl", infini_model()
    with (
        MonitorFile(path, about_model(model, "tiny")) as file,
        Collector(model, every=100, on_record=file.write) as seen,
    ):
        new_session(model).read(book(600), chunk_size=64)
    return path, seen


def test_what_was_seen_is_what_is_read(recorded):
    path, seen = recorded
    recording = read_recording(path)
    assert recording.marks == seen.marks
    assert recording.probes == seen.probes
    assert recording.about["model"] == "tiny"
    assert (
        recording.about["full_kv_bytes_per_token"] == 2 * 2 * 2 * 8 * 4
    )  # keys and values, layers, heads, size, float32


def test_a_line_that_was_never_finished_is_left_out(recorded, tmp_path):
    path, seen = recorded
    cut = tmp_path / "cut.jsonl"
    cut.write_bytes(path.read_bytes()[:-5])
    recording = read_recording(cut)
    assert len(recording.marks) + len(recording.probes) == len(seen.marks) + len(seen.probes) - 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is no file of"),
        (b"\n", "is no file of"),
        (b"hello\n", "is no file of"),
        (b"\xff\xfe\x00\n", "is no file of"),
        (b'{"a": 1}\n', "its first line is another one"),
        (b"[1]\n", "its first line is another one"),
        (b'{"format": "infini-attention monitor", "version": 99}\n', "has version 99"),
        (b'{"format": "infini-attention monitor", "version": 1}\n', "without model, fingerprint"),
    ],
)
def test_other_files(tmp_path, content, words):
    path = tmp_path / "other.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=words):
        read_recording(path)


@pytest.mark.parametrize("line", ["[]", "3", '{"mark": {}}', '{"mark": 1}', '{"probe": {"tokens": 1}}', "{}"])
def test_damaged_lines(recorded, tmp_path, line):
    header = recorded[0].read_text().splitlines()[0]
    path = tmp_path / "damaged.jsonl"
    path.write_text(f"{header}\n{line}\n")
    with pytest.raises(InputError, match="is no file of"):
        read_recording(path)


def test_nothing_was_read(recorded, tmp_path):
    path = tmp_path / "empty.jsonl"
    path.write_text(recorded[0].read_text().splitlines()[0] + "\n")
    with pytest.raises(InputError, match="holds no mark"):
        read_recording(path)


def test_no_such_file(tmp_path):
    with pytest.raises(InputError, match="no file of"):
        read_recording(tmp_path / "nowhere.jsonl")


def test_where_nothing_can_be_written(tmp_path):
    with pytest.raises(InputError, match=r"could not be written \(No such file"):
        MonitorFile(tmp_path / "nowhere" / "file.jsonl", {})


def test_each_line_is_on_the_disk_at_once(tmp_path):
    path = tmp_path / "live.jsonl"
    with MonitorFile(path, {"model": "x"}) as file:
        file.write({"mark": {"tokens": 1}})
        assert [json.loads(line) for line in path.read_text().splitlines()][1] == {"mark": {"tokens": 1}}
