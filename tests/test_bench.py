"""The table of `make bench`: lines that topics leave, and one for a topic that stops."""

import json
import sys

import pytest

from lib.data.cache import ROOT
from tests import bench
from tests.bench import __main__ as all_topics


def test_a_topic_leaves_its_lines_and_one_that_stops_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv(bench.ROWS, str(tmp_path / "rows"))
    bench.row("speed", "3 s", "< 2 s", False)
    bench.row("limit", "5 GB/s")
    assert [json.loads(line) for line in (tmp_path / "rows").read_text().splitlines()] == [
        {"what": "speed", "measured": "3 s", "target": "< 2 s", "ok": False},
        {"what": "limit", "measured": "5 GB/s", "target": "", "ok": True},
    ]
    monkeypatch.setattr(sys, "executable", "false")
    assert [row["ok"] for row in all_topics.measured("limits")] == [False]


def test_topics_are_the_modules_and_another_is_refused():
    assert {"heads", "suite", "site"} <= set(all_topics.topics()) and "limits" not in all_topics.topics()
    with pytest.raises(SystemExit, match="no topic speed: expected some of limits, gpu, heads"):
        all_topics.main(["speed"])
    assert all_topics.TABLE.parent == ROOT / "book"
