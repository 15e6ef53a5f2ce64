"""Hyper-parameters as tables: the paper's beside ours, every chapter's parameters, every run of the suite."""

import ast
import tomllib
from functools import partial
from pathlib import Path

import jupytext
import pandas as pd

from lib.data import paper
from lib.run import chapter
from lib.train import loop, suite

TABLE = "setup.toml"
SUITE = Path(suite.__file__).with_name("suite.toml")


def hyperparameters() -> pd.DataFrame:
    """The paper's hyper-parameters beside ours: columns part, what, paper, origin, ours, where (text, one row each).

    `ours` is read from the place that `where` names, so that it can't differ from what runs; it is empty where the
    chapter does not exist yet. Raises ValueError where a place does not exist.
    """
    table = pd.DataFrame(tomllib.loads(Path(__file__).with_name(TABLE).read_text())["row"])
    cells = parameters().groupby("chapter").apply(lambda f: dict(zip(f.parameter, f.laptop, strict=True))).to_dict()
    runs = suite_runs("laptop")
    ours = ["; ".join(map(partial(_value, cells=cells, runs=runs), names.split())) for names in table.ours]
    columns = ["part", "what", "paper", "origin", "ours", "where"]
    return table.rename(columns={"ours": "where"}).assign(ours=ours)[columns]


def parameters() -> pd.DataFrame:
    """Every chapter's parameters: columns chapter, parameter, laptop, smoke, paper, meaning (text).

    Empty where a profile does not override the laptop's value.
    """
    rows = []
    for path in chapter.chapters():
        tagged = [c for c in jupytext.read(path).cells if "parameters" in c.metadata.get("tags", [])]
        other = {profile: chapter.overrides(profile, path.stem) for profile in ("smoke", "paper")}
        for name, value, meaning in _cell(tagged[0].source) if tagged else []:
            overridden = (str(other[profile].get(name, "")) for profile in other)
            rows.append([path.stem, name, value, *overridden, meaning])
    return pd.DataFrame(rows, columns=["chapter", "parameter", "laptop", "smoke", "paper", "meaning"])


def suite_runs(profile) -> pd.DataFrame:
    """The runs of the nano suite of a profile: one row each, settings and overrides merged, absent ones empty."""
    tables = tomllib.loads(SUITE.read_text())
    if profile not in tables:
        raise ValueError(f"unknown profile {profile!r}: expected one of {', '.join(tables)}")
    table = tables[profile]
    shared = {name: value for name, value in table.items() if name not in ("settings", "runs")}
    rows = [shared | table["settings"] | run for run in table["runs"]]
    return pd.DataFrame(rows).rename(columns={"output_bias": "bias"}).fillna({"arm": "", "bias": False})


def _value(name, cells, runs):
    place, _, key = name.partition(".")
    if place == "suite" and key in runs:
        return ", ".join(dict.fromkeys(map(_text, runs[key])))
    if place == "loop" and hasattr(loop, key):
        return _text(getattr(loop, key))
    if place == "constant":
        return _text(paper.constant(key))
    if not key:
        return f"see {place}"
    if place not in cells:
        return ""
    if key in cells[place]:
        return str(cells[place][key])
    raise ValueError(f"{TABLE} names {name!r}, which does not exist: correct the name there.")


def _text(value):
    return (
        ", ".join(map(_text, value))
        if isinstance(value, (list, tuple))
        else f"{value:,}"
        if isinstance(value, int)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


def _cell(source):
    """Name, value and comment of each annotated assignment, all as written."""
    lines = source.splitlines()
    for node in ast.parse(source).body:
        if isinstance(node, ast.AnnAssign):
            comment = lines[node.end_lineno - 1][node.end_col_offset :].strip().removeprefix("#").strip()
            yield node.target.id, ast.get_source_segment(source, node.value), comment
