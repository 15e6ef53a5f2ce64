"""What a figure or a number was made from: the cells that it rests on, their records and inputs."""

import json

import pytest

from lib.run import chapter, provenance
from tests.test_chapter import HEADER

CELLS = [
    "from lib.show import numbers, tables\nimport numpy as np",
    "seed = 3\nother = 4",
    "a = np.arange(seed)",
    "b = {name: np.ones(other) for name in 'xy'}",
    "a[0] = 7\nnumbers.tell('x', {'y': 1})",
    "for part in b.values():\n    c = part",
    "tables.table(a)",
    "tables.table([name for name in c])",
]


@pytest.mark.parametrize(("cell", "rests"), [(6, [0, 1, 2, 4, 6]), (7, [0, 1, 3, 5, 7]), (5, [0, 1, 3, 5]), (1, [1])])
def test_a_cell_rests_on_those_that_gave_its_names_and_on_theirs(cell, rests):
    assert provenance.behind(CELLS, cell) == rests


def test_a_name_given_anew_needs_nothing_of_before_unless_that_was_conditional():
    assert provenance.behind(["x = 1", "x = 2", "x + 1"], 2) == [1, 2]
    assert provenance.behind(["x = 1", "if True:\n    x = 2", "x + 1"], 2) == [0, 1, 2]
    assert provenance.behind(["x = 1", "x += 1", "x + 1"], 2) == [0, 1, 2]


def test_an_executed_chapter_says_what_its_number_was_made_from(tmp_path):
    source = tmp_path / "toy.md"
    cells = [
        "from lib.data import paper\nfrom lib.run import records\nfrom lib.study import saturation\n"
        "from lib.show import numbers",
        "fitted = records.recall(saturation.law_of_figure, draws=2, seed=rank)",
        "elsewhere = rank + 1\nnumbers.tell('z', {'n': elsewhere})",
        "numbers.tell('toy', {'n': len(fitted), 'm': len(paper.figure('2'))})",
    ]
    source.write_text(HEADER + "\n".join(f"```{{code-cell}} ipython3\n{cell}\n```\n" for cell in cells))
    target, _ = chapter.execute(source, out=tmp_path)
    made = [c["metadata"].get(provenance.KEY) for c in json.loads(target.read_text())["cells"]]
    alone, told = [one for one in made if one]
    assert (told["records"], told["seed"], told["made"]) == (1, "2", "computed")
    assert {"paper.json"} <= told["inputs"].keys() and all(len(hashed) == 12 for hashed in told["inputs"].values())
    assert told["seconds"] > 0 and told["processor"] and told["code"]
    assert alone["records"] == 0 and alone["inputs"] == {} and alone["seed"] == ""
