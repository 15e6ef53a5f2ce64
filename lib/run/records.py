"""Results kept under the hash of what made them: computed once, then read, and checked at each reading.

    python -m lib.run.records                 list them: what, when, how long, how big, current or stale
    python -m lib.run.records show 3fa2       all that is known about one, by the first characters of its key
    python -m lib.run.records prune           remove the stale, the damaged and what killed runs left behind

A record is one file: the SHA-256 of all that follows it, a line of JSON that says what it is and how it was made, then
the result (Parquet, JSON, npy or npz). It appears under its name whole or not at all, so any number of processes may
share the folder.
"""

import argparse
import contextlib
import functools
import hashlib
import json
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
from filelock import FileLock

from lib.data.cache import ROOT, cache, size
from lib.run import machine, progress
from lib.run.calls import Call, call, carry_out, named, short
from lib.run.results import decode, encode

USED = "BOOK_RECORDS"  # names the file in which a kernel tells the process that started it which records it uses

_used: dict[str, dict] = {}  # manifests of the records that this process has used, in order


class Unwritable(OSError):
    """A record that its disk does not take, in one sentence."""


def recall(function: Callable, /, **parameters):
    """The result of function(**parameters), computed once and then read from its record.

    The function stands at the top of a module and returns a data frame, a dictionary of JSON values, an array, or a
    dictionary of arrays. The key of its record is made of its name, the code of its module and of what this imports of
    lib, the versions of the scientific packages, the parameters, and the content behind those called `address`,
    `addresses`, `corpus`, `corpora`. A damaged record is made anew. What is returned has always been through the file,
    so the first run sees exactly what the next will. Raises ValueError on what can't be recorded.
    """
    wanted = call(function, parameters)
    progress.tell(wanted.name)
    blob = obtain(wanted)
    use(blob)
    return unpack(blob)


def obtain(wanted: Call) -> bytes:
    """Bytes of a call's record, made where there is none."""
    blob = read(wanted)
    if blob is None:
        lock = prepare(wanted).with_suffix(".lock")
        with FileLock(lock):  # a second process waits for the first, then reads
            try:
                blob = read(wanted)
                if blob is None:
                    blob = compute(wanted)
                    write(wanted, blob)
            finally:
                lock.unlink(missing_ok=True)
    return blob


def provenance() -> pd.DataFrame:
    """The records that this process has recalled, in order, and how each was made."""
    rows = [
        {
            "function": made["function"].rpartition(".")[2].replace(":", "."),
            "parameters": short(made["parameters"]),
            "inputs": short({name: str(value)[:12] for name, value in made["inputs"].items()}),
            "made": made["made"][:10],
            "seconds": made["seconds"],
            "dtype": made["parameters"].get("dtype", ""),
            "machine": made["machine"],
            "command": made["command"],
            "code": made["code"][:12],
            "commit": made["commit"],
        }
        for made in _used.values()
    ]
    return pd.DataFrame(rows)


def summary() -> pd.DataFrame:
    """`provenance` with the records of one function, date, dtype, command, machine and code on one line."""
    alike = ["function", "made", "dtype", "command", "machine", "code", "commit"]
    groups = provenance().groupby(alike, sort=False, dropna=False)["seconds"]
    table = groups.agg(records="size", seconds="sum").reset_index()
    return table[["function", "records", "seconds", *alike[1:]]]


def place(wanted: Call) -> Path:
    """Where a call's record is, or would be."""
    return cache() / "records" / wanted.function.replace(":", ".") / f"{wanted.key}.record"


def prepare(wanted: Call) -> Path:
    """Make the folder of a call's record, before time is spent on computing it; its place."""
    path = place(wanted)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(wanted, error) from error
    return path


def read(wanted: Call) -> bytes | None:
    """Bytes of a call's record; None when there is none, or one that fails its check."""
    blob = checked(place(wanted))
    return blob if blob and manifest(blob)["key"] == wanted.key else None


def command() -> str:
    """The command that is running: $BOOK_COMMAND where whoever started this process has said it better."""
    return os.environ.get("BOOK_COMMAND") or " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])


def compute(wanted: Call, asked_by: str | None = None) -> bytes:
    """Carry out a call in this process, on behalf of a command; the record's bytes."""
    start = time.perf_counter()
    result = carry_out(wanted)
    seconds = time.perf_counter() - start
    try:
        form, payload = encode(result)
    except ValueError as error:
        raise ValueError(f"the result of {wanted.function} can't be recorded: {error}") from error
    about = {
        "function": wanted.function,
        "parameters": wanted.parameters,
        "inputs": wanted.inputs,
        "code": wanted.code,
        "versions": wanted.versions,
        "key": wanted.key,
        "form": form,
        "payload": hashlib.sha256(payload).hexdigest(),
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 3),
        "command": asked_by or command(),
        "commit": commit(),
        "machine": _machine(),
        "python": platform.python_version(),
    }
    body = json.dumps(about).encode() + b"\n" + payload
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def write(wanted: Call, blob: bytes) -> None:
    """Put a record in its place, whole or not at all. Raises Unwritable where it can't."""
    path = prepare(wanted)
    scratch = path.with_name(f"{path.stem}-{platform.node()}-{os.getpid()}-{threading.get_ident()}.new")
    try:
        scratch.write_bytes(blob)
        os.replace(scratch, path)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise _unwritable(wanted, error, len(blob)) from error


def manifest(blob: bytes) -> dict:
    """What a record says about itself."""
    return json.loads(blob.split(b"\n", 2)[1])


def unpack(blob: bytes):
    """The result in a record's bytes."""
    return decode(manifest(blob)["form"], blob.split(b"\n", 2)[2])


def use(blob: bytes, kept: bool = False) -> None:
    """From here on `provenance` names this record; kept: it came with the book rather than from the cache."""
    about = manifest(blob)
    _used[about["key"]] = about
    if path := os.environ.get(USED):
        with contextlib.suppress(OSError), open(path, "a", encoding="utf-8") as file:  # work must not fail for it
            file.write(json.dumps(about | {"kept": kept}) + "\n")


def state(path: Path, fingerprints: dict | None = None) -> tuple[str, dict]:
    """Whether a record is "ok", "stale" (made by other code, packages or inputs) or "damaged"; its manifest."""
    blob = checked(path)
    if blob is None:
        return "damaged", {}
    about = manifest(blob)
    try:
        now = named(about["function"], about["parameters"], fingerprints)
    except (ImportError, OSError, ValueError):  # the module or what it read is gone
        return "stale", about
    return ("ok" if now.key == path.stem else "stale"), about


def checked(path: Path) -> bytes | None:
    """Bytes of a record's file; None when there is none, or one that fails its check."""
    try:
        blob = path.read_bytes()
    except FileNotFoundError:
        return None
    stated, _, body = blob.partition(b"\n")
    return blob if hashlib.sha256(body).hexdigest().encode() == stated else None


def _unwritable(wanted, error, count=None):
    amount = "" if count is None else f" ({size(count)})"
    return Unwritable(
        error.errno,
        f"the record of {wanted.function}{amount} can't be written to {place(wanted).parent} ({error.strerror}): "
        "make room there or point BOOK_CACHE elsewhere, and run it again",
    )


@functools.cache
def _machine():
    torch = sys.modules.get("torch")  # a function that used the GPU has imported it
    gpu = f", {machine.processor('cuda')}" if torch and torch.cuda.is_available() else ""
    return machine.processor() + gpu


@functools.cache
def commit():
    """Commit of the working tree, with a + where lib was changed; None outside git."""
    git = ["git", "-C", str(ROOT)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "status", "--porcelain", "lib"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+" if changed.stdout else "")


def main():
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m lib.run.records", description=__doc__.split("\n")[0])
    parser.add_argument("action", nargs="?", default="list", choices=["list", "show", "prune"])
    parser.add_argument("key", nargs="?", default="", help="first characters of a record's key")
    args = parser.parse_args()
    fingerprints, removed = {}, 0
    folder = cache() / "records"
    paths = sorted(folder.glob(f"*/{args.key}*.record"), key=lambda path: (path.parent, path.stat().st_mtime))
    for path in paths:
        what, about = state(path, fingerprints)
        if args.action == "show":
            print(json.dumps({"state": what, "path": str(path), **about}, indent=2))
        elif args.action == "prune" and what != "ok":
            path.unlink()
            removed += 1
        elif args.action == "list":
            made, seconds = about.get("made", "")[:16].replace("T", " "), about.get("seconds", 0)
            print(
                f"{path.stem[:10]}  {what:7}  {made:16}  {seconds:9.1f} s  {size(path.stat().st_size):>9}  "
                f"{path.parent.name}({short(about.get('parameters', {}))})"
            )
    if args.action == "prune":
        for path in folder.glob("*/*.new"):
            if path.stat().st_mtime < time.time() - 3600:  # a younger one may be being written
                path.unlink()
        print(f"{removed} of {len(paths)} records removed")


if __name__ == "__main__":
    main()
