"""Results of tasks in a report: a line for each, and the curves of those that have one."""

import pytest

from evaluation.pages import Page
from infini_attention.evaluation.perplexity.texts import Text
from infini_attention.evaluation.report.found_results import Found, find_results
from infini_attention.evaluation.report.model_page import model_page
from infini_attention.evaluation.report.model_report import Scale, report_on
from infini_attention.evaluation.report.task_rows import curves, sort_tasks, task_row
from tiny import book, byte_tokenizer, infini_model

MINE = "f" * 64


def result(task="mqar", **changes):
    about = {"task": task, "fingerprint": MINE, "haystack": "repeat", "memory": "on", "needle": True, "file": "a.json"}
    figures = {"accuracy": 0.75, "interval": [0.5, 0.9], "samples": 20, "outside_window_share": 1.0, "cells": []}
    figures |= {"state_bytes": 1000, "lengths": [1024, 4096], "worst_cell": {"length": 4096, "pairs": 64, "exact": 0.5}}
    curve = [{"length": 4096, "pairs": 4, "segments": 4, "exact": 0.75, "interval": [0.5, 0.9]}]
    return about | figures | {"curve": curve} | changes


def test_a_line():
    row = task_row(result(memory="off", needle=False))
    assert row["name"] == "mqar · repeat"
    assert (row["control"], row["lengths"], row["score"]) == ("memory off, no needle", "1K, 4K", 0.75)
    assert (row["sure"], row["worst"], row["worst_place"]) == ([0.5, 0.9], 0.5, "4K, pairs 64")


def test_a_line_of_many_lengths_and_of_a_summary():
    worst = {"document": 3, "length": 100, "geometric_mean": 0.1}
    row = task_row(result("summary", lengths=[500, 100, 300, 200, 400], worst_cell=worst, haystack=None))
    assert (row["name"], row["lengths"]) == ("summary", "100 to 500")
    assert (row["worst"], row["worst_place"]) == (0.1, "100, document 3")


def test_controls_stand_behind_what_they_control():
    results = [
        result("ruler"),
        result(memory="off"),
        result("mqar", needle=False),
        result(),
        result("babilong", split="held-out"),
        result("babilong", split="seen"),
        result("facts"),
    ]
    assert [(r["task"], r.get("split"), r["memory"], r["needle"]) for r in sort_tasks(results)] == [
        ("facts", None, "on", True),
        ("ruler", None, "on", True),
        ("mqar", None, "on", True),
        ("mqar", None, "on", False),
        ("mqar", None, "off", True),
        ("babilong", "held-out", "on", True),
        ("babilong", "seen", "on", True),
    ]


def test_curves():
    longer = result("retention", curve=[{"segments": 1}, {"segments": 2}])
    reports = [{"title": "one", "tasks": [result("retention"), longer, result("retention", memory="off"), result()]}]
    found = curves(reports, "retention")
    assert set(found) == {"one, repeat", "one, repeat, memory off"}
    assert len(found["one, repeat"]) == 2


def test_they_are_found(tmp_path):
    import json

    for number, each in enumerate((result(), result(fingerprint="0" * 64), {"task": "mqar", "fingerprint": MINE})):
        (tmp_path / f"{number}.json").write_text(json.dumps(each))
    found = find_results([tmp_path], MINE).tasks
    assert [each["file"] for each in found] == [str(tmp_path / "0.json")]  # the last one is no whole result


@pytest.fixture(scope="module")
def report():
    def text(count):
        return Text.from_blocks([book(count)], byte_tokenizer(), name="a book", max_tokens=count)

    from infini_attention.data.haystack import Haystack

    scale = Scale(tokens=512, text_tokens=600, lengths=(256,), depths=1, samples=1)
    tasks = sort_tasks([result("retention", file="r.json"), result(file="m.json"), result("summary", haystack=None)])
    haystack = Haystack.repeat(byte_tokenizer())
    return report_on(infini_model(), byte_tokenizer(), haystack, text, scale, name="tiny", found=Found(tasks=tasks))


def test_they_are_on_the_page(report):
    page = Page(model_page([report], {"machine": "m", "threads": 1, "versions": {}, "commit": None}, ["infini"]))
    page.assert_needs_nothing()
    cells = page.cells("tasks")
    assert cells[9:18] == [
        "mqar · repeat",
        "-",
        "1K, 4K",
        "20",
        "75.0 %",
        "50.0 % to 90.0 %",
        "50.0 % at 4K, pairs 64",
        "100 %",
        "1.0 kB",
    ]
    assert cells[18] == "retention · repeat"
    assert "r.json" in page.text
    plain = report | {"tasks": []}
    without = Page(model_page([plain], {"machine": "m", "threads": 1, "versions": {}, "commit": None}, ["infini"]))
    assert "Other tasks" not in without.text
    pictures = [[tag for tag, _ in each.elements if tag == "svg"] for each in (page, without)]
    assert len(pictures[0]) == len(pictures[1]) + 2
