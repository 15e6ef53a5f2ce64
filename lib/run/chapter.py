"""Execute chapters with papermill.

    python -m lib.run.chapter book/04b_spectra.md --profile smoke
    python -m lib.run.chapter 04b_spectra -p seed 3 -p tokens 5000

A chapter is a MyST text notebook; its parameter cell holds the laptop values, `book/profiles/PROFILE.yml` what another
profile overrides, `-p NAME VALUE` what you override (`lib.run.parameters` says how values are read). Without `-p` the
executed notebook goes to OUT/notebooks, from which the site is built, and is kept under a key of all that shaped it;
with `-p` it goes to OUT/tries.
"""

import argparse
import hashlib
import json
import logging
import os
import re
import shlex
import sys
import tempfile
import time
from pathlib import Path

import jupytext
import papermill
from nbclient.exceptions import DeadKernelError
from papermill.engines import NBClientEngine, papermill_engines
from traitlets.config import Config

from lib.data.cache import ROOT, cache
from lib.run import code, estimate, machine, progress, provenance, records
from lib.run.parameters import fitted, own, profile_values, written

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
    return profile_values(path, chapter)


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
    products = machine.dtype() if "machine.dtype(" in cells else None  # a result in bf16 is none in float32
    digest.update(json.dumps([profile, parameters, inputs(profile), products], sort_keys=True).encode())
    return digest.hexdigest()


def inputs(profile):
    """What lies in the cache and is named by no line of source: trained runs, resolved hub revisions."""
    index = cache() / "suite" / "index.json"
    runs = json.loads(index.read_text()) if index.exists() else {}
    revisions = cache() / "hub-revisions.json"
    resolved = revisions.read_text() if profile == "paper" and revisions.exists() else ""
    return [{name: run["key"] for name, run in runs.items() if run.get("profile", profile) == profile}, resolved]


def cached(source, profile, out):
    """Whether a chapter's executed notebook in OUT is what executing it would make."""
    parameters = fitted(overrides(profile, source.stem), own(read(source)))
    return _stands_for(out / "notebooks" / f"{source.stem}.ipynb", key(source, profile, parameters))


def _stands_for(target, stamp):
    return target.exists() and json.loads(target.read_text())["metadata"].get("book_key") == stamp


class Watched(NBClientEngine):
    """Papermill's own engine, which says on a line which cell is running."""

    @classmethod
    def execute_managed_notebook(cls, nb_man, kernel_name, watch=None, used=None, **settings):
        """Execute the cells, telling `watch` of each that begins and `used` of each that ends."""
        start, complete = nb_man.cell_start, nb_man.cell_complete

        def begin(cell, cell_index=None, **more):
            watch.begin(cell_index)
            return start(cell, cell_index, **more)

        def end(cell, cell_index=None, **more):
            used.end(cell_index)
            return complete(cell, cell_index, **more)

        nb_man.cell_start, nb_man.cell_complete = begin, end
        # At once: a kernel that computes doesn't hear a polite request, and everything it has finished is on disk.
        return super().execute_managed_notebook(nb_man, kernel_name, shutdown_kernel="immediate", **settings)


papermill_engines.register("watched", Watched)
# It warns of parameters that it can't find, and does not find those whose annotation holds a `|`; `fitted` knows all.
logging.getLogger("papermill").setLevel(logging.ERROR)


def execute(source, profile="laptop", parameters=None, out=Path("_build"), fresh=False, after=None):
    """Execute one chapter; the executed notebook's path, and "cached" or "ran".

    `after` is how many seconds the chapters that follow will take, for the line that shows what is going on.

    A failing chapter leaves its notebook, outputs so far included, in OUT/failed and raises ChapterError.
    """
    tried = parameters or {}
    notebook = read(source)
    try:
        parameters = fitted(overrides(profile, source.stem) | tried, own(notebook))
    except ValueError as error:
        raise ChapterError(f"{source.stem}: {error}") from error
    folder = out / "tries" if tried else out / "notebooks"
    suffix = "".join(f"-{name}={value}" for name, value in tried.items()).replace(" ", "")
    suffix = re.sub(r"[^\w.,:=@\[\]-]", "_", suffix, flags=re.ASCII)  # papermill fills in braces
    whole = hashlib.sha256(f"{profile}{suffix}".encode()).hexdigest()[:8]  # two tries must not share a name
    suffix = f"-{profile}{suffix}" if tried and profile != "laptop" else suffix
    target = folder / f"{source.stem}{suffix if len(suffix) <= 120 else f'{suffix[:110]}-{whole}'}.ipynb"
    command = f"make chapter CH={source.stem} PROFILE={profile}"
    options = " ".join(f"-p {name} {shlex.quote(str(value))}" for name, value in tried.items())
    os.environ["BOOK_COMMAND"] = command + (f' P="{options}"' if tried else "")
    stamp = key(source, profile, parameters)
    if not fresh and _stands_for(target, stamp):
        return target, "cached"
    draft = out / "failed" / target.name
    for path in (draft, target):
        path.parent.mkdir(parents=True, exist_ok=True)
    notebook.metadata["book_key"] = stamp
    notebook.metadata["book_profile"] = profile
    jupytext.write(notebook, draft)
    try:
        with tempfile.TemporaryDirectory() as scratch:  # ipc: a kernel on TCP warns that it is not encrypted
            told = Path(scratch, "progress.json")
            used = provenance.Used(Path(scratch, "records.jsonl"))
            os.environ |= {progress.FILE: str(told), records.USED: str(used.path)}
            cells = len(notebook.cells) + bool(parameters)  # papermill puts one of its own in front
            with _watch(source.stem, cells, profile, told, bool(tried), after) as watch:
                papermill.execute_notebook(
                    str(draft),
                    str(draft),
                    engine_name="watched",
                    watch=watch,
                    used=used,
                    parameters=parameters,
                    kernel_name="python3",
                    cwd=str(BOOK),
                    progress_bar=False,
                    config=Config({"KernelManager": {"transport": "ipc", "ip": f"{scratch}/kernel"}}),
                )
    except papermill.exceptions.PapermillExecutionError as error:
        target.unlink(missing_ok=True)  # what was executed from another text must not stand for this one
        raise ChapterError(
            f"{source.stem}: cell {error.exec_count} failed with {error.ename}: {' '.join(error.evalue.split())} "
            f"(see {draft})"
        ) from error
    except DeadKernelError as error:
        target.unlink(missing_ok=True)
        raise ChapterError(f"{source.stem}: its kernel died, most often for want of memory (see {draft})") from error
    if not tried:
        done = json.loads(draft.read_text())
        values = {name: samples[-1] for name, samples in own(notebook).items() if samples} | parameters
        provenance.note(done, values, used.by_cell, inputs(profile)[0])
        draft.write_text(json.dumps(done, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        cells = [cell["metadata"]["papermill"].get("duration") or 0.0 for cell in done["cells"]]
        estimate.remember(profile, source.stem, done["metadata"]["papermill"]["duration"], cells)
    draft.replace(target)
    return target, "ran"


def _watch(name, cells, profile, told, tried, after):
    """The line of a chapter; nothing is foreseen of one that is tried with other parameters."""
    if tried:
        return progress.Watch(name, cells, told, after=after)
    known = estimate.earlier(profile, name) or {}
    return progress.Watch(name, cells, told, known.get("cells", ()), estimate.predicted(profile, name), after)


def configure(profile):
    """Set what every kernel inherits: quiet, and the hub reached by the paper profile alone."""
    os.environ.update(ENVIRONMENT)
    if profile != "paper":
        os.environ["HF_HUB_OFFLINE"] = "1"


def run(sources, profile, parameters, out, fresh):
    """Execute chapters one after another, a line each; the errors, if any. Ctrl-C ends it, and says what is kept."""
    configure(profile)
    errors, begun = [], time.time()
    left = [estimate.expected(profile, source.stem) or 0.0 for source in sources]
    for number, source in enumerate(sources):
        start = time.perf_counter()
        try:
            target, state = execute(source, profile, parameters, out, fresh, sum(left[number + 1 :]))
            print(f"  {source.stem:24} {state:6} {time.perf_counter() - start:7.1f} s  {target}", flush=True)
        except ChapterError as error:
            errors.append(error)
            print(f"  {source.stem:24} failed {time.perf_counter() - start:7.1f} s", flush=True)
        except KeyboardInterrupt:
            new = sum(path.stat().st_mtime >= begun for path in (cache() / "records").glob("*/*.record"))
            sys.exit(
                f"\nstopped in {source.stem} after {progress.duration(time.perf_counter() - start)}: {number} chapters "
                f"and {new} results made since the start are kept; the same command goes on from there"
            )
    return errors


def main():
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m lib.run.chapter", description=__doc__.split("\n")[0])
    parser.add_argument("sources", nargs="*", help="chapters by path or name; none: all")
    parser.add_argument("--profile", default="laptop")
    parser.add_argument("--out", type=Path, default=Path("_build"))
    parser.add_argument("--fresh", action="store_true", help="execute even what is cached")
    parser.add_argument(
        "-p",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="a decimal number, True, False, None, a list of values in brackets, or text; of the chapter's own type",
    )
    args = parser.parse_args()
    try:
        parameters = written(args.p)
    except ValueError as error:
        parser.error(str(error))
    try:
        sources = [find(name) for name in args.sources] or chapters()
        errors = run(sources, args.profile, parameters, args.out, args.fresh)
    except ChapterError as error:
        errors = [error]
    if errors:
        sys.exit("\n".join(f"error: {error}" for error in errors))


if __name__ == "__main__":
    main()
