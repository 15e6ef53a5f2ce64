"""A function of lib with its parameters, and the hash of all that decides its result."""

import functools
import hashlib
import importlib
import importlib.metadata
import inspect
import json
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lib.run import code
from lib.run.parameters import plain

SCIENCE = ("lm_eval", "numpy", "scipy", "tokenizers", "torch", "transformers")  # a new version may change a result
READS = {"address": "checkpoints", "addresses": "checkpoints", "corpus": "corpora", "corpora": "corpora"}


@dataclass(frozen=True)
class Call:
    """One call, by names and JSON alone, so that another machine can carry it out."""

    function: str  # module:name
    parameters: dict  # all of them, defaults included
    inputs: dict  # fingerprints of the addresses and corpora among the parameters
    code: str  # hash of the module and what it imports of lib
    versions: dict
    key: str

    @property
    def name(self) -> str:
        """Its function as people say it: heads.untrained."""
        return self.function.rpartition(".")[2].replace(":", ".")

    def __str__(self) -> str:
        return f"{self.name}({short(self.parameters)})"


def call(function: Callable, parameters: dict, fingerprints: dict | None = None) -> Call:
    """Check a call and make its key; `fingerprints` remembers those of addresses and corpora between calls.

    Raises ValueError where the function is not at the top of a module, does not take these parameters, or where one of
    them is not JSON.
    """
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
    if not inspect.isfunction(function) or "." in name or module in (None, "__main__"):
        raise ValueError(f"{function!r} can't be recorded: expected a function at the top of a module, not of a script")
    signature = inspect.signature(function)
    try:
        bound = signature.bind(**parameters)
    except TypeError as error:
        raise ValueError(f"{module}.{name} can't be called so: {error}; it takes {signature}") from error
    bound.apply_defaults()
    arguments = dict(bound.arguments)
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            arguments |= arguments.pop(parameter.name)
    exact = {name: plain(name, value) for name, value in sorted(arguments.items())}
    return named(f"{module}:{name}", exact, fingerprints)


def named(function: str, parameters: dict, fingerprints: dict | None = None) -> Call:
    """The call of a function given as module:name with all its parameters; nothing is imported or checked."""
    fingerprints = {} if fingerprints is None else fingerprints
    inputs = {name: _inputs(name, value, fingerprints) for name, value in parameters.items() if name in READS and value}
    hashed, versions = code.module_hash(function.partition(":")[0]), _versions()
    content = json.dumps([function, parameters, inputs, hashed, versions], sort_keys=True)
    return Call(function, parameters, inputs, hashed, versions, hashlib.sha256(content.encode()).hexdigest()[:40])


def carry_out(wanted: Call):
    """The result of a call, in this process."""
    module, _, name = wanted.function.partition(":")
    return getattr(importlib.import_module(module), name)(**wanted.parameters)


def check_code(wanted: Call) -> None:
    """Raise ValueError where this process has other code or packages than the one that made the call."""
    module = wanted.function.partition(":")[0]
    if code.module_hash(module) != wanted.code:
        raise ValueError(f"the worker has another version of {module}: give it the same commit of the repository")
    for name, version in _versions().items():
        if version != wanted.versions[name]:
            raise ValueError(f"the worker has {name} {version}, not {wanted.versions[name]}: install constraints.txt")


def reason(error: BaseException) -> str:
    """An error on one line, with the place that raised it where that is known."""
    try:
        message = " ".join(str(error).split())
    except Exception:  # its own way of telling failed
        message = ""
    places = traceback.extract_tb(error.__traceback__)[-1:]
    where = "".join(f" ({Path(place.filename).name}:{place.lineno})" for place in places)
    return f"{type(error).__name__}: {message or 'no message'}{where}"


def short(parameters: dict, width: int = 100) -> str:
    """Parameters on one line."""
    text = ", ".join(f"{name}={value}" for name, value in parameters.items())
    return text if len(text) <= width else f"{text[: width - 3]}..."


def _inputs(name, value, fingerprints):
    """Fingerprint of what an address or corpus, or each of a list of them, stands for."""
    if isinstance(value, list):
        return [_inputs(name, one, fingerprints) for one in value]
    if not isinstance(value, str):
        raise ValueError(f"parameter {name} holds {value!r} ({type(value).__name__}): expected names, as text")
    if (name, value) not in fingerprints:
        fingerprints[name, value] = importlib.import_module(f"lib.data.{READS[name]}").fingerprint(value)
    return fingerprints[name, value]


@functools.cache
def _versions():
    # Without the local part: 2.13.0+cpu and 2.13.0+cu130 are one version on two devices.
    return {name: importlib.metadata.version(name).partition("+")[0] for name in SCIENCE}
