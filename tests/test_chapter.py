"""The chapter runner: keys, refusals, failures, equal outputs."""

import json
import shutil
from pathlib import Path

import pytest

from lib.run import chapter

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


def test_a_misspelt_parameter_is_refused_with_those_that_exist(source, tmp_path):
    with pytest.raises(chapter.ChapterError, match="no parameter rnak; it has rank"):
        chapter.execute(source, parameters={"rnak": 5}, out=tmp_path)
    assert not list(tmp_path.rglob("*.ipynb"))


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


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", 3), ("1e-3", 1e-3), ("[8, 16]", [8, 16]), ("package:smollm2-135m", "package:smollm2-135m")],
)
def test_command_line_values(text, value):
    assert chapter.value(text) == value


def test_profiles_name_only_chapters_and_parameters_that_exist(tmp_path):
    """A misspelt line in a profile would otherwise be found hours into a run."""
    import papermill
    import yaml

    for profile in ("smoke", "paper"):
        values = yaml.safe_load((chapter.BOOK / "profiles" / f"{profile}.yml").read_text()) or {}
        for name, parameters in values.items():
            draft = tmp_path / f"{name}.ipynb"
            chapter.jupytext.write(chapter.read(chapter.find(name)), draft)
            assert set(parameters) <= set(papermill.inspect_notebook(str(draft))), (profile, name)


def test_stock_papermill_runs_a_plain_notebook(source, tmp_path):
    import papermill

    chapter.jupytext.write(chapter.read(source), tmp_path / "in.ipynb")
    shutil.copy(tmp_path / "in.ipynb", tmp_path / "plain.ipynb")
    papermill.execute_notebook(
        str(tmp_path / "plain.ipynb"), str(tmp_path / "out.ipynb"), parameters={"rank": 4}, progress_bar=False
    )
    assert "6 " in outputs(Path(tmp_path / "out.ipynb"))
