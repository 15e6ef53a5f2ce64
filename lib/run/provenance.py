"""From what each figure and each number of an executed chapter was made.

An output rests on its own cell, on the cells that gave the names which that uses, on those behind these, and so on. Of
all of them are told: the records that they read, the models, texts and files behind them with their hashes, seeds,
dtypes, processors, seconds, and whether it was computed here or came with the book as a record.
"""

import ast
import contextlib
import functools
import hashlib
import json
import re
import symtable
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lib.run import code, machine

KEY = "book_provenance"  # in the metadata of a cell
FILES = (".json", ".toml")
HANDLES = ("sources.toml", "criteria.toml", "costs.toml")  # say how inputs are found, judged and timed, and are none


@dataclass(frozen=True)
class Names:
    """What a cell does with names: those it needs, gives anew, or changes in place, and how it imports any of them."""

    needs: frozenset
    gives: frozenset
    changes: frozenset
    imports: Mapping[str, str]  # name -> statement


def behind(sources: Sequence[str], number: int) -> list[int]:
    """Which cells a cell rests on, itself included, in order."""
    kept, needed = [number], set(names(sources[number]).needs)
    imported = {name for source in sources for name in names(source).imports}  # numbers.tell() changes no number
    for earlier in range(number - 1, -1, -1):
        here = names(sources[earlier])
        if needed & (here.gives | here.changes - imported):
            kept.append(earlier)
            needed = needed - here.gives | here.needs
    return kept[::-1]


@functools.lru_cache(maxsize=1024)
def names(source: str) -> Names:
    """What a cell does with names."""
    needs, gives, changes, imports = set(), set(), set(), {}
    for statement in ast.parse(source).body:
        nodes = list(ast.walk(statement))
        if isinstance(statement, (ast.Import, ast.ImportFrom)):
            above = f"from {statement.module} " if isinstance(statement, ast.ImportFrom) else ""
            imports |= {alias.asname or alias.name: f"{above}import {alias.name}" for alias in statement.names}
        looped = _stored(node.target for node in nodes if isinstance(node, ast.For))
        looped |= _stored(item.optional_vars for node in nodes if isinstance(node, ast.With) for item in node.items)
        stored = _stored(target for node in nodes if isinstance(node, ast.Assign) for target in node.targets)
        stored |= _stored(node.target for node in nodes if isinstance(node, (ast.AnnAssign, ast.NamedExpr)))
        needs |= _read(symtable.symtable(ast.unparse(statement), "cell", "exec")) - looped - gives
        gives |= looped | (stored if isinstance(statement, (ast.Assign, ast.AnnAssign)) else set())
        changes |= stored | set(filter(None, map(_changed, nodes)))  # under a condition what was there may stay
    changes -= gives | imports.keys()
    return Names(frozenset(needs | changes), frozenset(gives | imports.keys()), frozenset(changes), imports)


def _stored(targets):
    """Names that targets of assignments give a value."""
    found = (node for target in targets if target for node in ast.walk(target))
    return {node.id for node in found if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def _read(table):
    """Names of the notebook that a piece of code reads, functions and comprehensions inside it included."""
    top = table.get_type() == "module"
    own = {s.get_name() for s in table.get_symbols() if s.is_referenced() and (top or s.is_global() or s.is_free())}
    return own.union(*map(_read, table.get_children()))


def _changed(node):
    """Name of what a statement changes in place: x[0] = 1, x.y = 1, x += 1, x.append(1)."""
    if isinstance(node, (ast.Subscript, ast.Attribute)) and isinstance(node.ctx, ast.Store):
        target = node.value
    elif isinstance(node, ast.AugAssign):
        target = node.target
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Attribute):
        target = node.value.func.value
    else:
        return None
    while isinstance(target, (ast.Subscript, ast.Attribute)):
        target = target.value
    return target.id if isinstance(target, ast.Name) else None


class Used:
    """The records that a kernel uses, cell by cell: it writes their manifests to a file, see `records.use`."""

    def __init__(self, path: Path):
        self.path, self.read, self.by_cell = path, 0, {}

    def end(self, cell: int) -> None:
        """A cell has ended: what was written since the last one is its own."""
        if self.path.exists():
            lines = self.path.read_text(encoding="utf-8").splitlines()
            if new := [json.loads(line) for line in lines[self.read :]]:
                self.by_cell[cell] = new
            self.read = len(lines)


def note(notebook: dict, parameters: Mapping, records: Mapping[int, Sequence[dict]], suite: Mapping) -> None:
    """Put into each cell with a figure, a number or a verdict what it was made from, in its metadata.

    notebook: executed, as JSON; parameters: all of the chapter's by name; records: manifests by cell; suite: key of
    each trained run by name.
    """
    cells = notebook["cells"]
    sources = ["".join(cell["source"]) if cell["cell_type"] == "code" else "" for cell in cells]
    imports = dict(pair for source in sources for pair in names(source).imports.items())
    for number, cell in enumerate(cells):
        if any(output.get("data") for output in cell.get("outputs", ())):
            rests = behind(sources, number)
            used = set().union(*(names(sources[one]).needs for one in rests))
            told = {about["key"]: about for one in rests for about in records.get(one, ())}.values()
            alone = [cells[one]["metadata"].get("papermill", {}).get("duration") for one in rests if one not in records]
            named = {name: value for name, value in parameters.items() if name in used}
            modules = code.imported("\n".join(sorted(imports[name] for name in used & imports.keys())))
            seconds = sum(about["seconds"] for about in told) + sum(filter(None, alone))
            cell["metadata"][KEY] = _told(told, named, modules, suite) | {"seconds": round(seconds, 1)}


def _told(records, parameters, modules, suite):
    kept = sum(about["kept"] for about in records)
    seeds = {str(value) for name, value in parameters.items() if name in ("seed", "seeds")}
    seeds |= {str(about["parameters"]["seed"]) for about in records if "seed" in about["parameters"]}
    modules = [name for name in modules if not name.startswith("lib.show")]
    return {
        "made": "computed" if not kept else "recorded" if kept == len(records) else "computed and recorded",
        "records": len(records),
        "inputs": _inputs(records, parameters, modules, suite),
        "seed": ", ".join(sorted(seeds)),
        "dtype": ", ".join(sorted({about["parameters"].get("dtype", "") for about in records} - {""})),
        "processor": "; ".join(sorted({about["machine"] for about in records} or {machine.processor()})),
        "code": code.module_hash(*modules)[:12] if modules else "",
    }


def _inputs(records, parameters, modules, suite):
    """Model, text or file -> hash."""
    found = {}
    for about in records:
        for name, prints in about["inputs"].items():
            found |= dict(_pairs(about["parameters"][name], prints))
    for value in parameters.values():
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, str) and one not in found and (hashed := _fingerprint(one)):
                found[one] = hashed
    read = code.files(*modules) if modules else []
    for path in read:
        for data in (path, *(path.with_suffix(kind) for kind in FILES)):
            if data.suffix in FILES and data.name not in HANDLES and data.is_file():
                found[data.name] = hashlib.sha256(data.read_bytes()).hexdigest()
    if any(path.name == "suite.py" for path in read):
        found["suite"] = hashlib.sha256(json.dumps(suite, sort_keys=True).encode()).hexdigest()
    short = {}
    for name, hashed in sorted(found.items()):
        if name.startswith("suite:"):  # a run's key stands for all of its checkpoints
            name, hashed = name.partition("@")[0], hashed.partition("@")[0]
        short[name] = re.sub(r"[0-9a-f]{13,}", lambda one: one[0][:12], hashed)
    return short


def _pairs(value, hashed):
    if isinstance(value, list):
        for pair in zip(value, hashed, strict=True):
            yield from _pairs(*pair)
    elif value:
        yield value, hashed


@functools.cache
def _fingerprint(text):
    """Hash of the model or the corpus that a parameter names and that is at hand; None for any other text."""
    from lib.data import checkpoints, corpora  # transformers takes seconds to import

    with contextlib.suppress(ValueError, OSError):
        if text in corpora.NAMES:
            return corpora.fingerprint(text)
        if ":" in text and checkpoints.available(text):
            return checkpoints.fingerprint(text)
    return None
