"""The benchmark of the server under load: a short run of it measures all that a long one is for."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from processes import environment

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "serve_load.py"
SMALL = {"sessions": 3, "seconds": 2, "tokens": 512, "rows": 2, "reply-tokens": 4, "turns": 6, "forks": 20}


@pytest.mark.slow
def test_every_figure_is_there(tmp_path):
    command = [sys.executable, BENCHMARK, "--out", tmp_path / "load.json"]
    for name, value in SMALL.items():
        command += [f"--{name}", value]
    done = subprocess.run([*map(str, command)], env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "load.json").read_text())
    assert (result["sessions"], result["tokens"], result["exit_code"]) == (3, 512, 0)
    assert result["answers"] == result["own_key"] > 0
    assert (result["key_of_another"], result["no_key"], result["errors"], result["first_errors"]) == (0, 0, 0, [])
    for times in (result["first_token_seconds"], result["per_token_seconds"]):
        assert 0 < times["p50"] <= times["p95"] <= times["most"]
    resident = result["resident_bytes"]
    assert 0 < max(resident["start"], resident["end"]) <= resident["most"]
    speed = result["throughput"]
    assert speed["rows"] == 2
    assert speed["ratio"] == pytest.approx(speed["side_by_side"] / speed["one_by_one"])
    turns = result["history"]
    assert (turns["turns"], len(turns["seconds"])) == (6, 6)
    assert (turns["cached_tokens_right"], turns["cached_tokens_wrong"]) == (5, 0)
    assert turns["read_at_the_last"] == turns["read_at_turn_2"] < turns["tokens"] / 4
    assert (result["forks"]["count"], result["forks"]["bytes_in_the_store"]) == (20, 0)  # no state is copied
    # The same as a table.
    assert f"| answers, with the own key, with another's | {result['answers']}, {result['answers']}, 0 |" in done.stdout
    assert f"| turn 6 / turn 2 of a history that is sent again | {turns['ratio']:.2f} " in done.stdout
