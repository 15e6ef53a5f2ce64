"""Execute chapters with papermill.

    python -m lib.run.chapter book/04b_spectra.md --profile smoke
    python -m lib.run.chapter 04b_spectra -p seed 3 -p tokens 5000

A chapter is a MyST text notebook; its parameter cell holds the laptop values, `book/profiles/PROFILE.yml` what another
profile overrides, `-p NAME VALUE` what you override. Without `-p` the executed notebook goes to OUT/notebooks, from
which the site is built, and is kept under a key of all that shaped it; with `-p` it goes to OUT/tries.
"""

import argparse
import hashlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import jupytext
import papermill
import yaml
from nbclient.exceptions import DeadKernelError
from traitlets.config import Config

from lib.data.cache import ROOT, cache
from lib.run import code

BOOK = ROOT / "book"
PROFILES = ("laptop", "smoke", "paper")
ENVIRONMENT = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "PYTHONHASHSEED": "0",
    "PYTHONWARNINGS": "ignore:IProgress not found",  # tqdm.auto's, on import of transformers
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",  # a bar becomes a hundred lines of output
}


class ChapterError(Exception):
    """A chapter that can't be found, configured or executed, in one sentence."""


def chapters():
    """Paths of the executable chapters, in the order of their names."""
    return [path for path in sorted(BOOK.glob("*.md")) if "format_name: myst" in path.read_text()[:400]]


def find(name):
    """Path of a chapter given by path, file name or stem."""
    known = {path.stem: path for path in chapters()}
    stem = Path(name).name.removesuffix(".md")
    if stem not in known:
        raise ChapterError(f"there is no chapter {name!r}; there are {', '.join(known)}")
    return known[stem]


def overrides(profile, chapter):
    """Parameters that a profile sets for a chapter."""
    if profile not in PROFILES:
        raise ChapterError(f"there is no profile {profile!r}; there are {', '.join(PROFILES)}")
    path = BOOK / "profiles" / f"{profile}.yml"
    if profile == "laptop":
        return {}
    return (yaml.safe_load(path.read_text()) or {}).get(chapter, {})


def read(source):
    """Chapter as a notebook with stable cell ids."""
    notebook = jupytext.read(source)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"  # jupytext draws random ids, so no two executed files would be equal
    return notebook


def key(source, profile, parameters):
    """Hash of all that decides a chapter's outputs: its text, what it imports of lib, pins, parameters, inputs.

    A chapter that reads other files of the book names them in its header: `book_reads: ["*.md"]`.
    """
    notebook = jupytext.read(source)
    cells = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    digest = hashlib.sha256()
    named = [path for pattern in notebook.metadata.get("book_reads", []) for path in sorted(BOOK.glob(pattern))]
    for path in (source, ROOT / "constraints.txt", *named):
        digest.update(path.read_bytes())
    digest.update(code.module_hash(*code.imported(cells)).encode())
    digest.update(json.dumps([profile, parameters, inputs(profile)], sort_keys=True).encode())
    return digest.hexdigest()


def inputs(profile):
    """What lies in the cache and is named by no line of source: trained runs, resolved hub revisions."""
    index = cache() / "suite" / "index.json"
    runs = json.loads(index.read_text()) if index.exists() else {}
    revisions = cache() / "hub-revisions.json"
    resolved = revisions.read_text() if profile == "paper" and revisions.exists() else ""
    return [{name: run["key"] for name, run in runs.items() if run.get("profile", profile) == profile}, resolved]


def execute(source, profile="laptop", parameters=None, out=Path("_build"), fresh=False):
    """Execute one chapter; the executed notebook's path, and "cached" or "ran".

    A failing chapter leaves its notebook, outputs so far included, in OUT/failed and raises ChapterError.
    """
    tried = parameters or {}
    parameters = overrides(profile, source.stem) | tried
    folder = out / "tries" if tried else out / "notebooks"
    suffix = "".join(f"-{name}={value}" for name, value in tried.items()).replace("/", "_").replace(" ", "")
    target = folder / f"{source.stem}{suffix[:120]}.ipynb"
    command = f"make chapter CH={source.stem} PROFILE={profile}"
    os.environ["BOOK_COMMAND"] = command + (
        f' P="{" ".join(f"-p {n} {v}" for n, v in tried.items())}"' if tried else ""
    )
    stamp = key(source, profile, parameters)
    if not fresh and target.exists() and json.loads(target.read_text())["metadata"].get("book_key") == stamp:
        return target, "cached"
    draft = out / "failed" / target.name
    for path in (draft, target):
        path.parent.mkdir(parents=True, exist_ok=True)
    notebook = read(source)
    notebook.metadata["book_key"] = stamp
    notebook.metadata["book_profile"] = profile
    jupytext.write(notebook, draft)
    known = papermill.inspect_notebook(str(draft))
    unknown = sorted(set(parameters) - set(known))
    if unknown:
        draft.unlink()
        raise ChapterError(f"{source.stem} has no parameter {', '.join(unknown)}; it has {', '.join(known)}")
    try:
        with tempfile.TemporaryDirectory() as sockets:  # ipc: a kernel on TCP warns that it is not encrypted
            papermill.execute_notebook(
                str(draft),
                str(draft),
                parameters=parameters,
                kernel_name="python3",
                cwd=str(BOOK),
                progress_bar=False,
                config=Config({"KernelManager": {"transport": "ipc", "ip": f"{sockets}/kernel"}}),
            )
    except papermill.exceptions.PapermillExecutionError as error:
        target.unlink(missing_ok=True)  # what was executed from another text must not stand for this one
        raise ChapterError(
            f"{source.stem}: cell {error.exec_count} failed with {error.ename}: {error.evalue.partition(chr(10))[0]} "
            f"(see {draft})"
        ) from error
    except DeadKernelError as error:
        target.unlink(missing_ok=True)
        raise ChapterError(f"{source.stem}: its kernel died, most often for want of memory (see {draft})") from error
    draft.replace(target)
    return target, "ran"


def value(text):
    """Value of a parameter given on the command line: YAML, and 1e-3 is a number."""
    loaded = yaml.safe_load(text)
    try:
        return float(loaded) if isinstance(loaded, str) else loaded
    except ValueError:
        return loaded


def configure(profile):
    """Set what every kernel inherits: quiet, and the hub reached by the paper profile alone."""
    os.environ.update(ENVIRONMENT)
    if profile != "paper":
        os.environ["HF_HUB_OFFLINE"] = "1"


def run(sources, profile, parameters, out, fresh):
    """Execute chapters one after another, a line each; the errors, if any."""
    configure(profile)
    errors = []
    for source in sources:
        start = time.perf_counter()
        try:
            target, state = execute(source, profile, parameters, out, fresh)
            print(f"  {source.stem:24} {state:6} {time.perf_counter() - start:7.1f} s  {target}", flush=True)
        except ChapterError as error:
            errors.append(error)
            print(f"  {source.stem:24} failed {time.perf_counter() - start:7.1f} s", flush=True)
    return errors


def main():
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m lib.run.chapter", description=__doc__.split("\n")[0])
    parser.add_argument("sources", nargs="*", help="chapters by path or name; none: all")
    parser.add_argument("--profile", default="laptop")
    parser.add_argument("--out", type=Path, default=Path("_build"))
    parser.add_argument("--fresh", action="store_true", help="execute even what is cached")
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    args = parser.parse_args()
    try:
        sources = [find(name) for name in args.sources] or chapters()
        parameters = {name: value(text) for name, text in args.p}
        errors = run(sources, args.profile, parameters, args.out, args.fresh)
    except ChapterError as error:
        errors = [error]
    if errors:
        sys.exit("\n".join(f"error: {error}" for error in errors))


if __name__ == "__main__":
    main()
