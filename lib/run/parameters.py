"""Values of parameters: how they are written, and which of them a chapter takes.

One rule for command lines, profiles and the grids of sweeps: a value is a decimal number (`10`, `010`, `1_000`, `.5`,
`1e-3`), a power of two (`2^-12`), `True` or `False`, `None` (or, as in JSON, `true`, `false`, `null`), or a list of
values in brackets, in lists as deep as you like. Everything else is text, dates and clock times among it, and so is
what stands in quotes in a list or a file. What a command line gives to a parameter that is text stays as it is written.
"""

import ast
import difflib
import json
import math
import re
import reprlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import yaml

WORDS = {"True": True, "true": True, "False": False, "false": False, "None": None, "null": None}
DIGITS = r"[0-9]+(_[0-9]+)*"
INTEGER = re.compile(rf"[-+]?{DIGITS}")
FLOAT = re.compile(rf"[-+]?({DIGITS}(\.({DIGITS})?)?|\.{DIGITS})([eE][-+]?[0-9]+)?")
POWER = re.compile(r"2\^([-+]?[0-9]{1,3})")
OF_ANNOTATION = {"bool": False, "dict": {}, "float": 0.0, "int": 0, "list": [], "str": ""}


class Written(str):
    """A value as it stands on a command line: whether it is text depends on the parameter that it is for."""


def written(pairs: Iterable[tuple[str, str]]) -> dict[str, Written]:
    """Parameters from names and values on a command line. Raises ValueError where a name comes twice."""
    values: dict[str, Written] = {}
    for name, text in pairs:
        if name in values:
            raise ValueError(f"parameter {name} is given twice, as {values[name]} and as {text}: give it once")
        values[name] = Written(text)
    return values


def read(text: str):
    """The value of a text by the rule above: a number, True, False, None, a list, or the text itself."""
    if not text.startswith("["):
        return _scalar(text)
    try:
        return load(text)
    except ValueError:  # brackets that don't close, as in a regular expression
        return text


def load(text: str):
    """What a YAML text says, its plain scalars read by the rule above. Raises ValueError where it is not YAML."""
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f" in line {mark.line + 1}" if mark else ""
        raise ValueError(f"this is not YAML{place}: {getattr(error, 'problem', error)}") from error


def profile_values(path: Path, chapter: str) -> dict:
    """What the file of a profile sets for a chapter. Raises ValueError where it is not made of chapters' parameters."""
    try:
        values = load(path.read_text()) or {}
    except ValueError as error:
        raise ValueError(f"{path.name} can't be read: {error}") from error
    chosen = (values.get(chapter) or {}) if isinstance(values, dict) else values
    if not isinstance(chosen, dict):
        raise ValueError(f"{path.name} holds {_shown(chosen)} where parameters by chapter and name are expected")
    return chosen


def own(notebook) -> dict[str, list]:
    """Samples of what each parameter of a chapter may be, from its parameter cell: its annotation's, then its value.

    Raises ValueError where the cell is not Python.
    """
    cells = [cell.source for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    try:
        statements = ast.parse(cells[0]).body if cells else []
    except SyntaxError as error:
        raise ValueError(f"its parameter cell is not Python: {error}") from error
    samples = {}
    for statement in statements:
        if isinstance(statement, ast.Assign | ast.AnnAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            values = _of_annotation(getattr(statement, "annotation", None)) + _of_value(statement.value)
            samples |= {target.id: values for target in targets if isinstance(target, ast.Name)}
    return samples


def fitted(values: dict, samples: dict[str, list]) -> dict:
    """Values as the chapter's own types, from its parameters' samples: an int where it has floats becomes one.

    Raises ValueError on a name that the chapter does not have, on what has no exact JSON value, and on a value of
    another type than its own: None fits where a sample is None, 3.0 an int, a list where its elements fit.
    """
    unknown = sorted(set(values) - set(samples))
    if unknown:
        near = [close for name in unknown for close in difflib.get_close_matches(name, samples, 1)]
        advice = f": did you mean {', '.join(near)}?" if near else ""
        raise ValueError(f"there is no parameter {', '.join(unknown)}; it has {', '.join(samples)}{advice}")
    return {name: _fitted(name, value, samples[name]) for name, value in values.items()}


def plain(name: str, value):
    """A parameter as JSON gives it back; NumPy's scalars and arrays, tuples and ranges as plain values and lists.

    Raises ValueError, naming the parameter, where JSON has no exact value for it.
    """
    if isinstance(value, np.generic | np.ndarray) and value.dtype.kind in "biufOU" and value.dtype != np.longdouble:
        value = value.tolist()
    if isinstance(value, list | tuple | range):
        return [plain(name, one) for one in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: plain(name, one) for key, one in value.items()}
    if value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value)):
        return json.loads(json.dumps(value))  # of an enumeration's member its value
    raise ValueError(
        f"parameter {name} holds {_shown(value)} ({type(value).__name__}), which JSON does not: "
        "pass finite numbers, text, booleans, None, lists, arrays of these, or dictionaries with text as keys"
    )


def _shown(value):
    """A value on one line, its middle left out where it is long."""
    return " ".join(reprlib.repr(value).split())


def _scalar(text):
    if text in WORDS:
        return WORDS[text]
    if INTEGER.fullmatch(text):
        return int(text)
    if power := POWER.fullmatch(text):
        return 2.0 ** int(power[1])
    return float(text) if FLOAT.fullmatch(text) else text


class _Loader(yaml.BaseLoader):
    """YAML where a name twice in one place is an error, and scalars are ours: YAML's own read 010 as 8, no as False."""

    def construct_scalar(self, node):
        text = super().construct_scalar(node)
        return text if node.style else _scalar(text)  # a style is a kind of quotes

    def construct_mapping(self, node, deep=False):
        values = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value in values:
                raise yaml.constructor.ConstructorError(None, None, "a name given twice, or no name", key.start_mark)
            values[key.value] = self.construct_object(value, deep=deep)
        return values


def _of_annotation(annotation):
    """One sample of each type in `int`, `int | None`, `list[float]`; none of what is not such."""
    match annotation:
        case ast.Name(name) if name in OF_ANNOTATION:
            return [OF_ANNOTATION[name]]
        case ast.Constant(None):
            return [None]
        case ast.BinOp(left, ast.BitOr(), right):
            return _of_annotation(left) + _of_annotation(right)
        case ast.Subscript(ast.Name("list"), elements):
            return [_of_annotation(elements)]
    return []


def _of_value(expression):
    try:
        return [plain("", ast.literal_eval(expression))]
    except (TypeError, ValueError):  # computed, or not there
        return []


def _fitted(name, value, samples):
    value = plain(name, _meant(str(value), samples) if isinstance(value, Written) else value)
    try:
        return _like(value, samples)
    except (OverflowError, TypeError) as error:
        raise ValueError(
            f"parameter {name} takes {_type(samples)} such as {_shown(samples[-1])}, "
            f"not {_shown(value)} ({_type([value])})"
        ) from error


def _meant(text, samples):
    """The value of a text on the command line: text where the parameter is text and not of the type it reads like."""
    value, kinds = read(text), {type(sample) for sample in samples}
    return text if str in kinds and type(value) not in kinds else value


def _like(value, samples):
    """The value as the type of a sample; TypeError where it is of no sample's."""
    kinds = {type(sample) for sample in samples}
    if isinstance(value, list) and list in kinds:
        return [_like(one, _elements(samples)) for one in value]
    if not samples or type(value) in kinds:
        return value
    if type(value) is int and float in kinds:
        return float(value)
    if type(value) is float and int in kinds and value.is_integer():
        return int(value)
    raise TypeError


def _elements(samples):
    return [element for sample in samples if isinstance(sample, list) for element in sample]


def _type(samples):
    """Words for the types of samples."""
    names = ["None" if sample is None else type(sample).__name__ for sample in samples]
    elements = _elements(samples)
    listed = f"list of {_type(elements)}" if elements else "list"
    return " or ".join(dict.fromkeys(listed if name == "list" else name for name in names))
