"""Kept records answer for what they were made of, by whatever code; the book's own stand for its profile."""

import pandas as pd
import pytest

from lib.data.cache import cache
from lib.run import chapter, kept, records
from lib.run.parameters import own
from tests import sweep_tasks as tasks

PLAN = """
function: tests.sweep_tasks:frame
grid:
  - {{n: 1, many: [1, 2]}}
  - {{n: 2, many: [3]}}
fixed: {{folder: "{folder}", dtype: bfloat16}}
"""


@pytest.fixture
def plans(tmp_path, monkeypatch):
    """A folder with a plan whose records have been made; what is computed leaves a mark in tmp_path / "marks"."""
    monkeypatch.setenv("BOOK_CACHE", str(tmp_path / "cache"))
    for name in ("marks", "plans"):
        (tmp_path / name).mkdir()
    (tmp_path / "plans" / "toy.yml").write_text(PLAN.format(folder=tmp_path / "marks"))
    monkeypatch.setattr(kept, "FOLDER", tmp_path / "plans")
    monkeypatch.setattr(records, "_used", {})  # by earlier tests of this process
    kept.make("toy")
    return tmp_path / "plans"


def asked(plans, grid, dtype="float32"):
    return kept.run(tasks.frame, grid, folder=str(plans.parent / "marks"), dtype=dtype)


def marks(plans):
    return len(list((plans.parent / "marks").iterdir()))


def test_a_kept_record_is_read_whatever_the_dtype_and_the_code(plans, monkeypatch):
    assert marks(plans) == 2
    monkeypatch.setenv("BOOK_CACHE", str(plans.parent / "empty"))
    monkeypatch.setattr("lib.run.code.module_hash", lambda *_: "later code")
    found = asked(plans, [{"n": 2, "many": [3]}, {"n": 1, "many": [1, 2]}])
    assert found.to_dict("list") == {"n": [2, 1, 1], "value": [3, 1, 2]}
    assert marks(plans) == 2
    assert set(records.provenance().dtype) == {"bfloat16"}


def test_what_is_not_kept_is_computed_in_its_place(plans):
    found = asked(plans, [{"n": 3, "many": [7]}, {"n": 1, "many": [1, 2]}])
    assert list(found.value) == [7, 1, 2]
    assert marks(plans) == 3
    assert not list(cache().glob("records/*/*.new"))


def test_a_second_making_computes_what_is_new_and_leaves_no_other_record(plans, monkeypatch):
    monkeypatch.setenv("BOOK_CACHE", str(plans.parent / "empty"))
    monkeypatch.setattr("lib.run.code.module_hash", lambda *_: "later code")
    text = (plans / "toy.yml").read_text()
    (plans / "toy.yml").write_text(text.replace("n: 1, many: [1, 2]", "n: 3, many: [4]"))
    assert len(kept.make("toy")) == len(list((plans / "toy").iterdir())) == 2
    assert marks(plans) == 3
    kept.make("toy", fresh=True)
    assert marks(plans) == 4 and len(list((plans / "toy").iterdir())) == 2


def test_a_damaged_record_and_a_wrong_plan_are_refused(plans):
    with pytest.raises(ValueError, match="no plan 'tow' .* one of toy"):
        kept.make("tow")
    (plans / "bad.yml").write_text("grid: []")
    with pytest.raises(ValueError, match="bad.yml must hold function"):
        kept.make("bad")
    path = next((plans / "toy").iterdir())
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="is damaged"):
        asked(plans, [{"n": 1, "many": [1, 2]}])


def test_the_laptop_never_trains_what_is_kept():
    """Every point that chapter 5.1 asks for with its own parameters has a sound record, and no other is kept."""
    samples = own(chapter.read(chapter.find("05a_rank_heads")))
    values = {name: sample[-1] for name, sample in samples.items()}
    rates = {"scaled": values["random_rates"], "trained": values["cut_rates"]}
    longest = max(values["lengths"])
    wanted = {
        (arm, seed, updates, tuple(values["train_ranks"]))
        for arm in rates
        for seed in values["seeds"]
        for updates in values["lengths"]
    } | {(arm, values["seeds"][0], longest, tuple(values["more_ranks"])) for arm in rates}
    found = set()
    for path in (kept.FOLDER / "heads_updates").glob("*.record"):
        blob = records.checked(path)
        about = records.manifest(blob)["parameters"]
        found.add((about["arm"], about["seed"], about["updates"], tuple(about["ranks"])))
        assert about["rates"] == rates[about["arm"]]
        same = ("address", "corpus", "context", "validation", "batch", "search", "start")
        assert {name: about[name] for name in same} == {name: values[name] for name in same}
        assert about["tokens"] == values["train"]
        assert isinstance(records.unpack(blob), pd.DataFrame)
    assert found == wanted
