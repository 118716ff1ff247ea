"""infini bench: the JSON, the table, the file, and what is refused."""

import json

import pytest

from infini_attention.benchmark import machine, run, sizes
from infini_attention.benchmark.timing import Pace

COMMAND = ("bench", "prefill", "--quick", "--shape", "builtin", "--rule", "linear", "--tokens", "16")


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    shape = sizes.Sizes(width=16, layers=1, heads=2, kv_heads=2, head_dim=8, intermediate=24, segment=8)
    monkeypatch.setitem(sizes.SHAPES, "builtin", shape)
    monkeypatch.setattr(run, "QUICK", Pace(least=2, most=2, seconds=0))
    monkeypatch.setattr(machine, "load", lambda: 0.0)


def test_json_and_file_are_the_same(run_json, tmp_path):
    path = tmp_path / "bench-prefill.json"
    result = run_json(*COMMAND, "-o", path)
    (row,) = result["rows"]
    assert {"peer", "phase", "shape", "ours_tokens_per_second", "peer_tokens_per_second"} <= row.keys()
    assert {"ratio", "limit_fraction", "spread"} <= row.keys()
    assert json.loads(path.read_text()) == result


def test_the_table_names_who_was_left_out(run_cli):
    code, out, err = run_cli(*COMMAND, "--peer", "none", "--peer", "no-memory")
    assert (code, out) == (2, "")
    assert "no peer 'no-memory'" in err
    code, out, err = run_cli("bench", "ops", *COMMAND[2:], "--peer", "none", "--peer", "by-segment")
    assert (code, err) == (0, "")
    header, *rows, left_out, conditions = out.splitlines()
    assert header.split()[:4] == ["phase", "shape", "rule", "peer"]
    assert [line.split()[0] for line in rows] == ["prefill", "train", "decode"]
    assert left_out.startswith("left out: by-segment, builtin, all phases: ")
    assert "load 0.0 before" in conditions


def test_a_busy_machine_is_refused_in_one_line(run_cli, monkeypatch):
    monkeypatch.setattr(machine, "load", lambda: 99.0)
    code, out, err = run_cli(*COMMAND)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "busy" in err and "--force" in err
    code, out, _ = run_cli(*COMMAND, "--force")
    assert code == 0
    assert "BUSY" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--shape", "7b"), "no shape '7b'"),
        (("--tokens", "20"), "multiple of the segment size"),
        (("--tokens", "many"), "--tokens must look like"),
        (("--device", "abacus"), "device 'abacus' cannot be used"),
        (("-o", "no/such/folder.json"), "does not exist"),
        (("--profile", "no/such/folder.json"), "does not exist"),
    ],
)
def test_mistakes_are_one_line(run_cli, arguments, message):
    code, out, err = run_cli(*COMMAND, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
