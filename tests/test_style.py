"""Chapters that a person can read and edit: narrow lines, short cells, comments, and the form that Jupyter saves."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import jupytext
import pytest

from lib.data.cache import ROOT
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


def test_cells_have_the_form_that_ruff_gives(tmp_path):
    for path in chapter.chapters():
        for number, cell in enumerate(jupytext.read(path).cells):
            if cell.cell_type == "code" and "parameters" not in cell.metadata.get("tags", []):
                (tmp_path / f"{path.stem}_{number}.py").write_text(cell.source + "\n")
    asked = ["--diff", "--no-cache", "--line-length", str(COLUMNS), "--config", "format.skip-magic-trailing-comma=true"]
    command = [Path(sys.executable).with_name("ruff"), "format", *asked, tmp_path]
    ruff = subprocess.run(command, capture_output=True, text=True)
    assert ruff.returncode == 0, ruff.stdout + ruff.stderr


def test_a_chapter_opened_and_saved_in_jupyter_is_unchanged(tmp_path):
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    manager = jupytext.TextFileContentsManager()
    manager.root_dir = str(tmp_path)
    for path in chapter.chapters():
        shutil.copy(path, tmp_path)
        opened = manager.get(path.name, type="notebook")
        manager.save({"type": "notebook", "content": opened["content"]}, path.name)
        assert (tmp_path / path.name).read_text() == path.read_text(), f"{path.name}: open it in JupyterLab and save it"
