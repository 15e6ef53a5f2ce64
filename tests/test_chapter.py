"""The chapter runner: keys, refusals, failures, equal outputs."""

import ast
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from lib.run import chapter, parameters
from lib.run.parameters import Written, written

HEADER = """---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  name: python3
  display_name: Python 3
  language: python
---

# A chapter

```{code-cell} ipython3
:tags: [parameters]

rank: int = 2  # of the head
```

"""


@pytest.fixture
def source(tmp_path):
    """A chapter of one computing cell."""
    path = tmp_path / "toy.md"
    path.write_text(
        HEADER + "```{code-cell} ipython3\nprint(sum(range(rank)), __import__('random').Random(rank).random())\n```\n"
    )
    return path


def outputs(path):
    """Outputs of an executed notebook, as text."""
    return json.dumps([cell.get("outputs") for cell in json.loads(path.read_text())["cells"]])


def test_runs_once_then_is_cached_until_its_text_changes(source, tmp_path):
    chapter.configure("laptop")
    target, state = chapter.execute(source, out=tmp_path)
    assert (target, state) == (tmp_path / "notebooks" / "toy.ipynb", "ran")
    first = outputs(target)
    assert chapter.execute(source, out=tmp_path) == (target, "cached")
    assert chapter.execute(source, out=tmp_path, fresh=True) == (target, "ran")
    assert outputs(target) == first
    source.write_text(source.read_text() + "\nOne more sentence.\n")
    assert chapter.execute(source, out=tmp_path)[1] == "ran"


def test_a_parameter_changes_the_result_and_leaves_the_book_alone(source, tmp_path):
    target, _ = chapter.execute(source, parameters={"rank": 5}, out=tmp_path)
    assert target.parent.name == "tries"
    assert "10 " in outputs(target)
    assert not (tmp_path / "notebooks" / "toy.ipynb").exists()


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"rnak": 5}, r"toy: there is no parameter rnak; it has rank: did you mean rank\?"),
        ({"zzz": 5}, "there is no parameter zzz; it has rank$"),
        ({"rank": "5"}, r"toy: parameter rank takes int such as 2, not '5' \(str\)"),
        (written([("rank", "1:30")]), r"parameter rank takes int such as 2, not '1:30' \(str\)"),
    ],
)
def test_a_wrong_parameter_is_refused_before_anything_runs(source, tmp_path, values, sentence):
    with pytest.raises(chapter.ChapterError, match=sentence):
        chapter.execute(source, parameters=values, out=tmp_path)
    assert not list(tmp_path.rglob("*.ipynb"))


def test_ten_is_ten_however_it_is_written(source, tmp_path):
    for value in (Written("010"), np.int64(10)):
        target, _ = chapter.execute(source, parameters={"rank": value}, out=tmp_path)
        assert "45 " in outputs(target)


def test_any_text_is_a_parameter_and_names_a_file(source, tmp_path):
    source.write_text(source.read_text().replace("rank: int = 2", 'name: str = "a"\nrank: int = 2'))
    for text in ("{name}/../x 'a' \"b\" #1", "é" * 120):
        target, _ = chapter.execute(source, parameters=written([("name", text)]), out=tmp_path)
        assert target.parent == tmp_path / "tries"
        cells = json.loads(target.read_text())["cells"]
        (injected,) = (cell for cell in cells if "injected-parameters" in cell["metadata"].get("tags", []))
        assert ast.literal_eval("".join(injected["source"]).partition("name = ")[2]) == text


def test_a_failing_chapter_keeps_its_outputs_and_never_reaches_the_book(source, tmp_path):
    chapter.execute(source, out=tmp_path)
    source.write_text(source.read_text() + "```{code-cell} ipython3\n1 / 0\n```\n")
    with pytest.raises(chapter.ChapterError, match=r"toy: cell 3 failed with ZeroDivisionError: division by zero"):
        chapter.execute(source, out=tmp_path)
    assert not (tmp_path / "notebooks" / "toy.ipynb").exists()
    assert "ZeroDivisionError" in outputs(tmp_path / "failed" / "toy.ipynb")


def test_a_killed_kernel_is_one_sentence(source, tmp_path):
    source.write_text(source.read_text() + "```{code-cell} ipython3\nimport os; os.kill(os.getpid(), 9)\n```\n")
    with pytest.raises(chapter.ChapterError, match="its kernel died"):
        chapter.execute(source, out=tmp_path)


def test_unknown_names_list_the_known_ones():
    with pytest.raises(chapter.ChapterError, match="no chapter '09_nothing'; there are"):
        chapter.find("09_nothing")
    with pytest.raises(chapter.ChapterError, match="no profile 'desktop'; there are laptop, smoke, paper"):
        chapter.overrides("desktop", "04b_spectra")


READ = {
    "3": 3, "010": 10, "1_000": 1000, "+3": 3, "-7": -7, "1e-3": 1e-3, "1E5": 1e5, ".5": 0.5, "5.": 5.0, "1_0.5": 10.5,
    "2^-12": 2.0**-12, "True": True, "true": True, "False": False, "None": None, "null": None,
    "[]": [], "[8, 16]": [8, 16], "[1e-3,3e-3]": [1e-3, 3e-3], "[[010], [1_000, [.5]]]": [[10], [1000, [0.5]]],
    "[1000, None]": [1000, None], "[wiki-en,package:a/b@c]": ["wiki-en", "package:a/b@c"], "[no, on]": ["no", "on"],
    "['010', \"None\"]": ["010", "None"], "[2024-01-01, 1:30]": ["2024-01-01", "1:30"],
}  # fmt: skip
TEXTS = (
    "", " ", "0x10", "0b1", "0o7", "1:30", "1:30:00", "2024-01-01", "2024-01-01T10:00:00Z", "yes", "no", "on", "off",
    "y", "TRUE", "inf", "-inf", "nan", ".inf", ".nan", "1_", "_1", "1__0", "1,000", "1.000.000", "1e", "e3", ".", "-",
    "1/2", "3 4", "10k", "10%", "\u0663", "[1,2", "[*a]", "[1]]", "(1, 2)", "{a: 1}", "a: b", "#3", "'3'",
    "~", "@x", "package:smollm2-135m", "!!int 3", "&a", "*a", "%",
)  # fmt: skip


@pytest.mark.parametrize(("text", "value"), [*READ.items(), *zip(TEXTS, TEXTS, strict=True)])
def test_one_rule_for_what_a_text_says(text, value):
    got = parameters.read(text)
    assert got == value and str(got) == str(value)  # 1, 1.0 and True are equal


def test_files_follow_the_rule_that_command_lines_do():
    for text, value in READ.items():
        assert parameters.load(f"a: {text}") == {"a": value}
    block = "a:\n  - 010\n  - no\n  - '010'\n  - 2024-01-01\nb: &x [1_000, 1e-3]\nc: *x\n010: {on: off}\nd:"
    assert parameters.load(block) == {
        "a": [10, "no", "010", "2024-01-01"], "b": [1000, 1e-3], "c": [1000, 1e-3], "010": {"on": "off"}, "d": "",
    }  # fmt: skip


@pytest.mark.parametrize("text", ["a: 1\nb: 2\na: 3", "a: [1", "a: *b", "{[1]: 2}", "a: \x00"])
def test_a_file_that_says_nothing_certain_is_refused(text):
    with pytest.raises(ValueError, match="this is not YAML"):
        parameters.load(text)


CELL = """
seed: int = 0
rate: float = 0.1
power: float = 2**-12
flag: bool = False
name: str = "a#b"  # a name
title: str | None = None
limit: int | None = None
counts: list = [1000, None]
rates: list = [0.5, 1.0]
names: list = ["a"]
nested: list = [[1], [2, 3]]
typed: list[float] = []
mixed: list = ["a", 1]
free: list = []
bare = 3
computed = len("abc")
"""
FITS = [
    ("seed", Written("1e3"), 1000), ("seed", 3.0, 3), ("seed", np.int8(3), 3), ("seed", -1, -1),
    ("rate", 3, 3.0), ("rate", Written("010"), 10.0), ("rate", np.float32(0.1), 0.10000000149011612),
    ("power", Written(".5"), 0.5), ("flag", Written("true"), True), ("flag", np.bool_(True), True),
    ("name", Written("010"), "010"), ("name", Written("None"), "None"), ("name", Written("[1,"), "[1,"),
    ("name", Written(""), ""), ("name", Written("'a'"), "'a'"), ("name", Written("true"), "true"),
    ("title", Written("None"), None), ("title", Written("010"), "010"), ("title", Written("[a]"), "[a]"),
    ("limit", Written("None"), None), ("limit", 5, 5), ("counts", Written("[None, 010]"), [None, 10]),
    ("counts", [], []), ("counts", (1, 2.0), [1, 2]), ("counts", np.arange(3), [0, 1, 2]), ("counts", range(2), [0, 1]),
    ("rates", Written("[1, 1e-3]"), [1.0, 1e-3]), ("names", Written("[no, b]"), ["no", "b"]),
    ("nested", [[1.0], []], [[1], []]), ("typed", [1], [1.0]), ("mixed", ["b", 2], ["b", 2]),
    ("free", Written("[a, 010, [None]]"), ["a", 10, [None]]), ("bare", 4, 4), ("computed", "any", "any"),
]  # fmt: skip
MISFITS = [
    ("seed", Written("None"), "takes int such as 0, not None (None)"),
    ("seed", Written("1:30"), "takes int such as 0, not '1:30' (str)"),
    ("seed", Written(""), "takes int such as 0, not '' (str)"),
    ("seed", Written("0x10"), "takes int such as 0, not '0x10' (str)"),
    ("seed", Written("[1]"), "takes int such as 0, not [1] (list of int)"),
    ("seed", Written("1.5"), "takes int such as 0, not 1.5 (float)"),
    ("seed", True, "takes int such as 0, not True (bool)"),
    ("seed", Written("1e999"), "holds inf (float), which JSON does not"),
    ("rate", float("nan"), "holds nan (float), which JSON does not"),
    ("rate", Written("inf"), "takes float such as 0.1, not 'inf' (str)"),
    ("rate", Written("9" * 400), "takes float such as 0.1, not 9999"),
    ("rate", False, "takes float such as 0.1, not False (bool)"),
    ("flag", Written("yes"), "takes bool such as False, not 'yes' (str)"),
    ("flag", 1, "takes bool such as False, not 1 (int)"),
    ("name", 10, "takes str such as 'a#b', not 10 (int)"),
    ("name", None, "takes str such as 'a#b', not None (None)"),
    ("limit", Written("all"), "takes int or None such as None, not 'all' (str)"),
    ("counts", Written("[1, x]"), "takes list of int or None such as [1000, None], not [1, 'x'] (list of int or str)"),
    ("counts", Written("1000"), "takes list of int or None such as [1000, None], not 1000 (int)"),
    (
        "rates",
        Written("[1e-3, None]"),
        "takes list of float such as [0.5, 1.0], not [0.001, None] (list of float or None)",
    ),
    ("names", Written("b"), "takes list of str such as ['a'], not 'b' (str)"),
    ("names", Written("[2024]"), "takes list of str such as ['a'], not [2024] (list of int)"),
    ("names", Written("[a: b]"), "takes list of str such as ['a'], not [{'a': 'b'}] (list of dict)"),
    ("nested", [1], "takes list of list of int such as [[1], [2, 3]], not [1] (list of int)"),
    ("free", Written("a"), "takes list such as [], not 'a' (str)"),
    ("bare", "x", "takes int such as 3, not 'x' (str)"),
    ("computed", {1, 2}, "holds {1, 2} (set), which JSON does not"),
]


@pytest.fixture(scope="module")
def own():
    cell = new_code_cell(CELL, metadata={"tags": ["parameters"]})
    return parameters.own(new_notebook(cells=[new_code_cell("x = 1"), cell]))


@pytest.mark.parametrize(("name", "value", "expected"), FITS)
def test_values_become_the_chapters_own_types(own, name, value, expected):
    got = parameters.fitted({name: value}, own)[name]
    assert repr(got) == repr(expected)


@pytest.mark.parametrize(("name", "value", "sentence"), MISFITS)
def test_values_of_another_type_are_refused_with_both(own, name, value, sentence):
    with pytest.raises(ValueError, match=re.escape(f"parameter {name} {sentence}")):
        parameters.fitted({name: value}, own)


def test_a_chapter_without_a_readable_parameter_cell(source, tmp_path):
    source.write_text(source.read_text().replace("rank: int = 2", "rank: int = = 2"))
    with pytest.raises(chapter.ChapterError, match="toy: its parameter cell is not Python"):
        chapter.execute(source, out=tmp_path)
    assert parameters.own(new_notebook(cells=[new_code_cell("x = 1")])) == {}


def test_the_command_line_refuses_in_a_sentence_and_runs_nothing(monkeypatch, capsys):
    def refused(*arguments):
        monkeypatch.setattr(sys, "argv", ["chapter", "a_proofs", *arguments])
        with pytest.raises(SystemExit) as ended:
            chapter.main()
        return f"{ended.value.code}{capsys.readouterr().err}"

    given_twice = refused("-p", "seed", "3", "-p", "seed", "4")
    assert given_twice.startswith("2") and "parameter seed is given twice, as 3 and as 4: give it once" in given_twice
    assert refused("-p", "rank", "two") == "error: a_proofs: parameter rank takes int such as 2, not 'two' (str)"


def test_stock_papermill_runs_a_plain_notebook(source, tmp_path):
    import papermill

    chapter.jupytext.write(chapter.read(source), tmp_path / "in.ipynb")
    shutil.copy(tmp_path / "in.ipynb", tmp_path / "plain.ipynb")
    papermill.execute_notebook(
        str(tmp_path / "plain.ipynb"), str(tmp_path / "out.ipynb"), parameters={"rank": 4}, progress_bar=False
    )
    assert "6 " in outputs(Path(tmp_path / "out.ipynb"))
