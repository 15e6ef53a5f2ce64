"""The nano suite: GPT-NeoX models of several widths, trained on real text, at Pythia's schedule of checkpoints.

    python -m lib.train.suite --profile laptop

trains what is missing under .cache/suite and lists what is there in .cache/suite/index.json.
"""

import argparse
import ast
import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pandas as pd
import tokenizers
import torch
import transformers
from filelock import FileLock, Timeout

from lib.data import corpora
from lib.data.cache import cache, once
from lib.train import loop, mixture, neox, tokenizer
from lib.train.loop import Run

PROFILES = Path(__file__).with_name("suite.toml")
STOPPED = "stopped: trained runs are kept, the others go on from their last checkpoint when you run this again"
TEXT_CODE, RUN_CODE = (mixture, tokenizer), (loop, neox)


def runs(profile: str) -> list[Run]:
    """The runs of a profile, the costliest first. Raises ValueError for an unknown profile or setting."""
    table = _profile(profile)
    found = []
    for entry in table["runs"]:
        settings = table["settings"] | entry
        for seed in settings.pop("seeds"):
            arm = [settings["arm"]] if "arm" in settings else []
            name = "-".join([table["prefix"], str(settings["width"]), *arm, f"seed{seed}"])
            try:
                found.append(Run(name=name, seed=seed, **settings))
            except TypeError as error:
                raise ValueError(f"a run of profile {profile} in suite.toml is not complete: {error}") from error
    return sorted(found, key=lambda run: -_cost(run))


def text(profile: str, vocabulary: int) -> Path:
    """Folder of the profile's tokenizer, train.npy and validation.npy; made once."""
    prose, technical = (_profile(profile)[kind] for kind in ("prose", "technical"))
    return once(
        cache() / "suite" / _text_name(profile, vocabulary),
        lambda folder: mixture.write_mixture(folder, prose, technical, vocabulary),
    )


def train(profile: str, workers: int | None = None) -> None:
    """Train the runs of a profile that are not in the cache, `workers` at once on a CPU, and add them to the index.

    Raises ValueError or FloatingPointError with one sentence where a run can't go on; finished runs are kept.
    """
    device = _device(profile)
    wanted = {run: _folder(profile, run) for run in runs(profile)}
    missing = [run for run, folder in wanted.items() if not (folder / "log.json").exists()]
    helpers = []
    if missing and device == "cpu":  # a thread each: twice as fast as two threads on one small model
        spare = min(workers or len(os.sched_getaffinity(0)), len(missing)) - 1
        command = [sys.executable, "-m", "lib.train.suite", "--profile", profile, "--join"]
        helpers = [subprocess.Popen([*command, str(place + 1)]) for place in range(spare)]
    try:
        join(profile)
    except KeyboardInterrupt:
        for helper in helpers:  # who pressed Ctrl-C told them too, who sent a signal did not
            helper.send_signal(signal.SIGINT)
        raise
    finally:
        failed = [helper for helper in helpers if helper.wait()]
    if failed:
        raise ValueError(f"{len(failed)} of the processes that train stopped early: see the message above")
    for run, folder in wanted.items():  # those that another process holds
        with FileLock(f"{folder}.lock"):
            if not (folder / "log.json").exists():
                raise ValueError(f"{run.name} was left unfinished by another process: run the same command again")
    _list(profile, wanted)


def missing(profile: str) -> float:
    """Share of the profile's training that is still to be done."""
    costs = {run: _cost(run) for run in runs(profile)}
    untrained = [cost for run, cost in costs.items() if not (_folder(profile, run) / "log.json").exists()]
    return sum(untrained) / sum(costs.values())


def losses(profile: str) -> pd.DataFrame:
    """Training and validation losses of the profile's trained runs: a row for each run, split and step.

    Columns run, width, seed, arm, parameters, step, tokens, split, loss; a training loss is the mean over the steps
    since the row before. Raises ValueError where nothing is trained.
    """
    rows = []
    for name, entry in _index().items():
        if entry["profile"] != profile:
            continue
        log = json.loads((cache() / "suite" / entry["path"] / "log.json").read_text())
        about = {"run": name} | {column: entry[column] for column in ("width", "seed", "arm", "parameters")}
        rows += [about | point | {"split": split} for split in ("train", "validation") for point in log[split]]
    if not rows:
        raise ValueError(f"no run of profile {profile!r} is trained: expected some; run `make suite PROFILE={profile}`")
    return pd.DataFrame(rows).sort_values(["width", "arm", "seed", "split", "step"], ignore_index=True)


def join(profile: str, place: int = 0) -> None:
    """Train, one after the other, the runs of a profile that nobody has trained or is training; place: of the bar."""
    device, parent = _device(profile), os.getppid()
    for run in runs(profile):
        folder = _folder(profile, run)
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(Timeout), FileLock(f"{folder}.lock", timeout=0):
            if not (folder / "log.json").exists():
                loop.train(run, text(profile, run.vocabulary), folder, device, {"position": place, "leave": False})
                _list(profile, {run: folder})
        if place and os.getppid() != parent:
            return  # the process that asked for help is gone


def _profile(name):
    profiles = tomllib.loads(PROFILES.read_text(encoding="utf-8"))
    if name not in profiles:
        raise ValueError(f"unknown profile {name!r}: expected one of {', '.join(profiles)}")
    return profiles[name]


def _device(profile):
    device = _profile(profile).get("device", "cpu")
    if device == "cuda":
        if not torch.cuda.is_available():
            raise ValueError(f"profile {profile} trains on a GPU: expected CUDA, found none; use --profile laptop")
        torch.set_float32_matmul_precision("high")
    return device


def _text_name(profile, vocabulary):
    """Name of the folder of a text, by all that shapes it."""
    prose, technical = (_profile(profile)[kind] for kind in ("prose", "technical"))
    prints = [corpora.fingerprint(name) for name in (*prose, *technical)]
    return f"text-{_digest(prints, prose, technical, vocabulary, _code(TEXT_CODE), tokenizers.__version__)[:12]}"


def _folder(profile, run):
    return cache() / "suite" / f"{run.name}-{_key(profile, run)[:12]}"


def _key(profile, run):
    """Hash of everything that shapes a run."""
    return _digest(
        dataclasses.asdict(run),
        _text_name(profile, run.vocabulary),
        _code(RUN_CODE),
        torch.__version__,
        transformers.__version__,
    )


def _cost(run):
    """Of a run, up to a factor: an exponential is worth some twenty multiplications."""
    return (
        run.steps
        * run.tokens_per_step
        * (run.vocabulary * (run.width + 20) + 12 * run.layers * run.width**2 + run.layers * run.width * run.context)
    )


def _index():
    path = cache() / "suite" / "index.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _list(profile, finished):
    """Add finished runs to the index."""
    path = cache() / "suite" / "index.json"
    with FileLock(f"{path}.lock"):
        index = _index()
        for run, folder in finished.items():
            log = json.loads((folder / "log.json").read_text())
            index[run.name] = {
                "path": folder.name,
                "key": _key(profile, run),
                "profile": profile,
                "steps": run.saved_steps(),
                "width": run.width,
                "seed": run.seed,
                "arm": run.arm,
                "vocabulary": run.vocabulary,
                "tokens_per_step": run.tokens_per_step,
                "parameters": log["parameters"],
                "non_embedding": log["non_embedding"],
            }
        scratch = path.with_suffix(".new")
        scratch.write_text(json.dumps(index, indent=1, sort_keys=True))
        os.replace(scratch, path)


@functools.cache  # of the code that this process runs, whatever is edited meanwhile
def _code(modules):
    """Sources without comments, docstrings and layout."""
    return [_bare(Path(module.__file__).read_text(encoding="utf-8")) for module in modules]


def _bare(source):
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            node.body[0] = ast.Pass()
    return ast.unparse(tree)


def _digest(*parts):
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Train the nano suite; what is trained already is kept.")
    parser.add_argument("--profile", default="laptop", help="of suite.toml (default: laptop)")
    parser.add_argument("--workers", type=int, help="runs at once on a CPU (default: its cores)")
    parser.add_argument("--join", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    try:
        if options.join is None:
            train(options.profile, options.workers)
        else:
            join(options.profile, options.join)
    except (ValueError, FloatingPointError, OSError) as error:
        sys.exit(f"suite: {error}")
    except KeyboardInterrupt:
        sys.exit("" if options.join else STOPPED)


if __name__ == "__main__":
    main()
