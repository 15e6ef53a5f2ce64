"""Code of chapters that a person can read: 88 columns, at most 15 lines a cell, every parameter with a comment."""

import re

import jupytext
import pytest

from lib.run import chapter

COLUMNS, LINES = 88, 15


@pytest.mark.parametrize("path", chapter.chapters(), ids=lambda path: path.stem)
def test_cells_are_one_thought_and_fit_their_column(path):
    for cell in jupytext.read(path).cells:
        tags = cell.metadata.get("tags", [])
        lines = cell.source.splitlines()
        if cell.cell_type != "code":
            continue
        if "parameters" in tags:
            bare = [line for line in lines if not re.search(r"  # \S", line)]
            assert not bare, f"no comment says what these are for: {bare}"
            continue
        wide = [line for line in lines if len(line) > COLUMNS]
        assert not wide, f"wider than {COLUMNS} columns: {wide}"
        assert len(lines) <= LINES, f"{len(lines)} lines, split it: {lines[0]}"
