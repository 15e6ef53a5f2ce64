"""Loss curves of training runs from the files in which trainers and trackers leave them.

Tables (CSV, TSV; exports of Weights & Biases and of TensorBoard), JSON lines, and a `trainer_state.json`.
"""

import json
import re
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from lib.data.points import failure, lines, points

STEPS = ("global_step", "step", "steps", "iteration", "iterations", "iter", "update", "updates", "num_updates", "batch")
STEPS += ("_step",)  # W&B's own counts the calls of its log, which need not be steps
TOKENS = ("tokens", "num_tokens", "n_tokens", "tokens_seen", "num_tokens_seen", "total_tokens", "consumed_tokens")
TOKENS += ("trained_tokens", "num_input_tokens_seen")
RUNS = ("run", "run_name", "run_id", "seed")
HELD_OUT = frozenset("val valid validation eval evaluation test dev heldout".split())
LOSSES = frozenset("loss losses nll xent entropy".split())
PLAIN = HELD_OUT | LOSSES | frozenset("lm ce cross train training mean avg total".split())
NO_LOSSES = frozenset("scale scaler weight coef grad ppl perplexity z aux auxiliary router balance balancing".split())
NUMBER = r"[-+]?[\d.,]*\d(?:[eE][-+]?\d+)?"
# a number with marks between its thousands, by the mark
GROUPED = {mark: rf"-?[1-9]\d{{0,2}}(?:[{mark}]\d{{3}})+(?:[{point}]\d*)?" for mark, point in (",.", ".,")}
FEWEST = 3  # points of a curve
ENOUGH = 12  # held-out losses with which they are preferred to those of training: what the detector needs


@dataclass(frozen=True)
class Curve:
    """One run: its name, steps (n,) increasing and losses (n,) positive, and how they were read."""

    name: str
    unit: str  # step, tokens or epoch
    steps: np.ndarray
    losses: np.ndarray
    column: str  # of the loss
    axis: str  # column of the steps
    rows: int  # of the file
    said: tuple[str, ...]  # which column was taken among several, and what was done with which rows
    failed: float | None = None  # the step from which on no loss is a finite number


def read(path: str | Path, loss: str | None = None, step: str | None = None) -> list[Curve]:
    """The loss curves of a file, one for each run that it holds.

    loss, step: names of columns, where the usual ones are not meant; of a W&B export, the name without the run's. A
    held-out loss is taken before one of training, if there are enough points of it. Raises ValueError with one sentence
    for a file that can't be read, columns that are missing or that could be either, and a run with too few points.
    """
    path = Path(path).expanduser()
    table, word, read_as = _table(path)
    axis, by_axis = _axis(path, table, step)
    metrics = _metrics(table)
    metric, by_metric = _metric(path, table, metrics, loss)
    if axis in metrics[metric].values():
        raise ValueError(
            f"{path} has {axis!r} for the loss and for the steps: choose two with --loss-column, --step-column"
        )
    found = []
    for run, column in metrics[metric].items():
        for part, rows in _parts(table):
            name = " ".join(filter(None, (run, part))) or path.stem
            curve, left_out = points(rows[axis], rows[column], word)
            said = (*read_as, *by_axis, *by_metric, *left_out)
            if len(curve) < FEWEST:
                count = f"{len(curve)} point{'s' * (len(curve) != 1)}"
                raise ValueError(
                    f"{path} has {count} of {column!r} by {axis!r} for {name}: expected at least {FEWEST}; look at the "
                    f"file, or choose other columns. {' '.join(said)}".strip()
                )
            unit = "tokens" if _bare(axis) in TOKENS else "epoch" if _bare(axis) == "epoch" else "step"
            steps = curve.index.to_numpy(float)
            failed = failure(rows[axis], rows[column])
            found.append(Curve(name, unit, steps, curve.to_numpy(), column, axis, len(rows), said, failed))
    return found


def read_all(paths: Iterable[str | Path], loss: str | None = None, step: str | None = None) -> list[Curve]:
    """The curves of several files as `read` gives them, with their folders in the names where these would be equal."""
    found = [(Path(path).expanduser(), curve) for path in paths for curve in read(path, loss, step)]
    if len(units := dict.fromkeys(curve.unit for _, curve in found)) > 1:
        raise ValueError(f"the curves count in {' and in '.join(units)}: choose one for all with --step-column")
    counts = Counter(curve.name for _, curve in found)
    named = [
        replace(curve, name=f"{path.absolute().parent.name}/{curve.name}") if counts[curve.name] > 1 else curve
        for path, curve in found
    ]
    names = [curve.name for curve in named]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{', '.join(twice)} is there twice: give each run a file of its own, under its own name")
    return named


def _table(path):
    """All cells of a file by the number of their row, what a row is called, and what was left out on the way."""
    readers = {".csv": _separated, ".tsv": _separated, ".txt": _separated}
    readers |= {".json": _json, ".jsonl": _json_lines, ".ndjson": _json_lines}
    if not path.is_file():
        what = "no file but a folder is" if path.is_dir() else "there is no file"
        raise ValueError(f"{what} {path}: expected a loss curve in {', '.join(readers)}")
    if path.suffix.lower() not in readers:
        raise ValueError(f"{path} ends in {path.suffix or 'no suffix'}: expected a loss curve in {', '.join(readers)}")
    try:
        table, word, said = readers[path.suffix.lower()](path)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8: export the curve again as CSV or JSON") from error
    if table.empty:
        raise ValueError(f"{path} holds no rows: expected a line of names and one for each step")
    return table, word, said


def _separated(path):
    with path.open(encoding="utf-8-sig") as file:
        head = file.readline()
    if not re.search(r"[^\W\d]", head):
        raise ValueError(f"{path} does not begin with the names of its columns: add a first line such as step,loss")
    mark = max("\t;,", key=head.count)
    options = {"dtype": str, "na_filter": False, "skip_blank_lines": False, "encoding": "utf-8-sig", "index_col": False}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # it would cut the rows
            table = pd.read_csv(path, sep=mark, **options)
    except pd.errors.ParserWarning as error:
        raise ValueError(
            f"line 2 of {path} has more fields than its first line has names: name each, or, if the commas are "
            "decimal, export with semicolons between fields"
        ) from error
    except pd.errors.ParserError as error:
        counts = re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", str(error))
        if not counts:
            raise ValueError(f"{path} is no table: {str(error).strip()}; export the curve again") from error
        names, line, fields = counts.groups()
        raise ValueError(
            f"line {line} of {path} has {fields} fields where the first has {names}: mend or remove it"
        ) from error
    table = table.fillna("")  # of a last line that was cut
    table.index += 2
    table.columns = [str(name).strip() for name in table.columns]
    table = _decimal(path, table)
    return table[(table != "").any(axis=1)], "line", []


def _decimal(path, table):
    """Cells whose numbers have a decimal point, and nothing between thousands.

    All cells together tell what a comma means: 5,71 can't be thousands, and 3.1415 beside 1,000 makes the comma part
    thousands. Where no cell tells, a comma is decimal.
    """
    commas, dots = (_numbers(table, mark) for mark in ",.")
    if commas.empty:
        return table
    told = [~cells.str.fullmatch(GROUPED[mark]) for cells, mark in ((commas, ","), (dots, "."))]
    if len(dots) and not told[0].any() and not told[1].any():
        raise ValueError(
            f"{commas.iloc[0]!r} and {dots.iloc[0]!r} in {path} may be thousands or decimals: export it without marks "
            "between thousands"
        )
    decimal = told[0].any() or not told[1].any()
    thousands, mixed = "." if decimal else ",", told[0].any() and told[1].any()

    def plain(cells):
        grouped = cells.str.strip().str.fullmatch(GROUPED[thousands]) & (not mixed)
        cells = cells.where(~grouped, cells.str.replace(thousands, "", regex=False))
        return cells.str.replace(",", ".", regex=False) if decimal else cells

    return table.apply(plain)


def _numbers(table, mark):
    """The cells that are numbers and hold a mark."""
    held = [table[name][table[name].str.contains(mark, regex=False)].str.strip() for name in table]
    cells = pd.concat(held, ignore_index=True)
    return cells[cells.str.fullmatch(NUMBER)]


def _json(path):
    """A trainer's state, or a list of entries; lines of JSON under another suffix."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, RecursionError) as error:
        try:
            return _json_lines(path)
        except ValueError:
            raise ValueError(f"{path} is no whole JSON: it may have been cut; copy it again") from error
    entries = content.get("log_history") if isinstance(content, dict) else content
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"{path} has no log_history: expected a trainer_state.json or a list of entries with a loss")
    return _frame(dict(enumerate(entries, 1))), "entry", []


def _json_lines(path):
    entries, broken = {}, []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        if line.strip():
            try:
                entry = json.loads(line)
            except (json.JSONDecodeError, RecursionError):
                entry = None
            if isinstance(entry, dict):
                entries[number] = entry
            else:
                broken.append(number)
    if len(broken) > len(entries):
        raise ValueError(f"line {broken[0]} of {path} is no JSON object: expected one on each line")
    said = [f"{lines(broken)} {'is' if len(broken) == 1 else 'are'} no JSON: left out."] if broken else []
    return _frame(entries), "line", said


def _frame(entries):
    """Entries by number as a table of cells; what an entry does not say is empty, and what is nested gets a path."""
    if any(isinstance(value, dict) for entry in entries.values() for value in entry.values()):
        entries = {number: _flat(entry) for number, entry in entries.items()}
    names = dict.fromkeys(name for entry in entries.values() for name in entry)
    cells = {name: [str(entry.get(name, "")) for entry in entries.values()] for name in names}
    return pd.DataFrame(cells, index=list(entries), dtype=str)


def _flat(entry, above=""):
    flat = {}
    for name, value in entry.items():
        flat |= _flat(value, f"{above}{name}/") if isinstance(value, dict) else {f"{above}{name}": value}
    return flat


def _axis(path, table, asked):
    """Column of the steps, and a sentence where another could have been it."""
    if asked is not None:
        if asked not in table:
            raise ValueError(f"{path} has no column {asked!r}: expected one of {', '.join(table)}")
        return asked, []
    order = (*STEPS, *TOKENS)
    usual = [name for name in table if _bare(name) in order and not _extreme(name)]
    usual = usual or [name for name in table if _bare(name) == "epoch"]
    if not usual:
        raise ValueError(
            f"no column of {path} counts steps or tokens: it has {', '.join(table)}; name one with --step-column"
        )
    first, *others = sorted(usual, key=lambda name: (*order, "epoch").index(_bare(name)))
    others += [name for name in table if re.fullmatch(rf"{re.escape(first)}\.\d+", name)]  # of the same name
    others = ", ".join(map(repr, others[:3]))
    return first, [f"Steps are read from {first!r} rather than {others}; --step-column chooses another."] * bool(others)


def _metrics(table):
    """What is logged, with its column for each run: `gpt - train/loss` is train/loss of the run gpt."""
    found = {}
    for name in table:
        if not _extreme(name):
            run, _, metric = name.rpartition(" - ")
            found.setdefault(metric.strip(), {})[run.strip()] = name
    return found


def _metric(path, table, metrics, asked):
    """The loss among what is logged, and a sentence where there was a choice."""
    if asked is not None:
        if asked not in metrics:
            raise ValueError(f"{path} has no column {asked!r}: expected one of {', '.join(metrics)}")
        return asked, []
    words = {name: set(re.split(r"[^a-z]+", name.lower())) - {""} for name in metrics}
    losses = [name for name, said in words.items() if said & LOSSES and said <= PLAIN]
    losses = losses or [name for name, said in words.items() if said & LOSSES and not said & NO_LOSSES]
    if not losses and {"wall time", "value"} <= {name.lower() for name in metrics}:  # TensorBoard names no tag
        losses = [name for name in metrics if name.lower() == "value"]
    if not losses:
        raise ValueError(
            f"no column of {path} is called a loss: it has {', '.join(metrics)}; name one with --loss-column"
        )
    counts = {name: max((table[column] != "").sum() for column in metrics[name].values()) for name in losses}
    losses = [name for name in losses if counts[name] >= FEWEST] or losses
    held_out = [name for name in losses if words[name] & HELD_OUT]
    training = [name for name in losses if name not in held_out]
    preferred = held_out if held_out and max(map(counts.get, held_out)) >= ENOUGH else training or held_out
    if len(preferred) > 1:
        raise ValueError(f"{path} has several losses, {', '.join(preferred)}: choose one with --loss-column")
    (chosen,), others = preferred, [name for name in losses if name not in preferred]
    rest = ", ".join(f"{name!r} with {counts[name]:,}" for name in others)
    choice = f"The loss is {chosen!r} with {counts[chosen]:,} values, not {rest}; --loss-column chooses another."
    return chosen, [choice] * bool(others)


def _parts(table):
    """The rows of each run, where a column tells several apart."""
    for name in table:
        if _bare(name) in RUNS and 1 < table[name].nunique() <= len(table) / FEWEST:
            return [(f"{name} {value}", rows) for value, rows in table.groupby(name, sort=False) if value]
    return [("", table)]


def _extreme(name):
    """Whether W&B wrote it beside a mean over runs or over rows."""
    return name.endswith(("__MIN", "__MAX"))


def _bare(name):
    """A name without the run, the tracker's grouping and the case: `gpt - train/global_step` is global_step."""
    metric = re.sub(r"[^a-z0-9]+", "_", name.rpartition(" - ")[2].strip().lower()).rstrip("_")
    return re.sub(r"^(train|trainer|training|progress|perf|throughput)_", "", metric)
