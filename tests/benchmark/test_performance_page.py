"""docs/performance.md shows the rows of result files, and its picture those that the page has."""

import importlib.util
import json
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def performance():
    spec = importlib.util.spec_from_file_location("performance_page", DOCS / "performance.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folder(tmp_path):
    """One result file, as a run writes it."""
    from infini_attention.benchmark.compare import figures
    from infini_attention.benchmark.plan import Case

    case = Case("prefill", 1, 1000, 0)
    times = {"ours": [1.0, 2.0, 4.0], "none": [3.0, 2.0, 2.0], "limit": [0.5, 1.0, 1.0]}
    row = {"phase": "prefill", "shape": "builtin", "rule": "delta", "peer": "none", "batch": 1, "int8": False}
    row |= {"ours_parameters": 620_000, "peer_parameters": 600_000, **figures(times, "ours", "none", case)}
    left = {"peer": "titans-pytorch", "shape": "builtin", "phase": None, "reason": "it is not installed"}
    about = {"bench": "prefill", "quick": True, "busy": False, "processor": "a CPU", "threads": 2, "load_before": 0.1}
    about |= {"versions": {"torch": "2.0"}, "commit": "0123456789abcdef"}
    (tmp_path / "bench-prefill.json").write_text(json.dumps(about | {"rows": [row], "left_out": [left]}))
    return tmp_path


def test_without_results_it_says_so(performance, tmp_path):
    assert "There are none yet." in performance.page(tmp_path)
    assert ".svg" not in performance.page(tmp_path)


def test_a_row_has_medians_and_extremes(performance, folder):
    page = performance.page(folder)
    assert (
        "| prefill | builtin | `delta` | none | 0.62 M / 0.60 M | 500 (250 to 1,000) | 50.0% (25.0% to 50.0%) | "
        "500 (333 to 500) | 1.00 (0.50 to 3.00) |" in page
    )
    assert "a CPU, 2 threads, load 0.1 before; torch 2.0, commit 0123456789ab." in page
    assert "- titans-pytorch, builtin, all phases: it is not installed" in page
    assert "busy" not in page


def test_the_picture_carries_what_it_shows(performance, folder, tmp_path):
    pytest.importorskip("matplotlib")
    rows = performance.rows(performance.results(folder))
    performance.picture(rows, tmp_path / "performance.svg")
    drawn = (tmp_path / "performance.svg").read_text()
    assert performance.digest(rows) in drawn
    assert "prefill, builtin, delta" in drawn


def test_the_picture_in_the_docs_is_up_to_date(performance):
    rows = performance.rows(performance.results(performance.RESULTS))
    drawn = performance.PICTURE.read_text() if performance.PICTURE.exists() else None
    assert (drawn is None) if not rows else (performance.digest(rows) in drawn), "run `make docs`"
