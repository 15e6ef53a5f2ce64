"""Every recipe of CONTRIBUTING.md does what it says: its blocks are taken from the page and carried out on a copy."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lib.data.cache import ROOT, cache
from lib.show import notebooks

TREE = ("book", "lib", "tests", "Makefile", "_toc.yml", "_config.yml", "constraints.txt", "pyproject.toml")
# A heading, or a block of code with what is said of it on the line above.
PART = re.compile(
    r"^## (?P<heading>[^\n]*)$|^(?:(?P<say>(?:Write|Add to)[^\n]*):\n\n)?"
    r"(?P<fence>`{3,})(?P<kind>\w*)\n(?P<text>.*?)^(?P=fence)$",
    re.M | re.S,
)
PLACE = re.compile(r"(Write|Add to)(?: the end of)? `([^`]+)`(?:, (above|below) `(.*)`)?")


def steps(page):
    """What the page asks for, in order: heading, "sh" or a file, text, and where in the file it goes."""
    heading = ""
    for part in PART.finditer(page):
        if part["heading"]:
            heading = part["heading"]
        elif part["kind"] == "sh":
            yield heading, "sh", part["text"], None
        else:
            how, path, side, line = PLACE.fullmatch(part["say"]).groups()
            yield heading, path, part["text"], None if how == "Write" else (side, line)


def put(path, text, where):
    """Write a file, or add to one beside the only line that begins so."""
    path.parent.mkdir(exist_ok=True)
    if where is None:
        assert not path.exists(), f"{path.name} is there already: the recipe needs another name"
        path.write_text(text)
        return
    side, line = where
    lines = path.read_text().splitlines(keepends=True)
    at = len(lines)
    if side:
        (found,) = [number for number, one in enumerate(lines) if one.startswith(line)]
        at = found + (side == "below")
    path.write_text("".join([*lines[:at], text, *lines[at:]]))


@pytest.fixture
def tree(tmp_path):
    """A copy of the tree, with the environment and the archives of this one; the folder of its cache."""
    copy, own = tmp_path / "copy", tmp_path / "cache"
    for folder in (copy / ".venv", own, cache() / "sources"):
        folder.mkdir(parents=True, exist_ok=True)
    for name in TREE:
        source = ROOT / name
        ignored = shutil.ignore_patterns("__pycache__", "records")
        shutil.copytree(source, copy / name, ignore=ignored) if source.is_dir() else shutil.copy(source, copy)
    (copy / ".gitignore").write_text(".venv\n_build\n__pycache__\n")
    (copy / "book" / "records").symlink_to(ROOT / "book" / "records")
    (own / "sources").symlink_to(cache() / "sources")
    for part in Path(sys.prefix).iterdir():
        if part.name != ".ready":
            (copy / ".venv" / part.name).symlink_to(part)
    (copy / ".venv" / ".ready").touch()  # later than all that it is made from
    return copy, own


def test_the_recipes_do_what_they_say(tree):
    copy, own = tree
    names = {f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    environment = os.environ | names | {"PYTHONPATH": str(copy), "BOOK_CACHE": str(own), "OMP_NUM_THREADS": "1"}
    told = {}

    def shell(text):
        command = ["bash", "-euo", "pipefail", "-c", text]
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{text}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout

    shell("git init --quiet && git add . && git commit --quiet --message before")
    for heading, what, text, where in steps((ROOT / "CONTRIBUTING.md").read_text()):
        if what == "sh":
            told[heading] = told.get(heading, "") + shell(text)
        else:
            put(copy / what, text, where)
    assert "1 passed" in told["A measure"]
    assert "torch.Size([512, 4])" in told["A model"]
    assert "num_rows: 7" in told["A corpus"]
    assert "3 passed" in told["A claim"]
    folder = copy / "_build" / "notebooks"
    (figure,) = notebooks.figures(folder)
    assert figure.name == "fig-participation" and figure.data.count("suite:") == 3
    (verdict,) = notebooks.verdicts(folder)
    assert (verdict["claim"], verdict["reading"]) == ("C11", "open") and "not yet" not in json.dumps(verdict["about"])
