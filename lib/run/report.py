"""One page on any model, or on loss curves: python -m lib.run.report ADDRESS ... (or --loss FILE ...)

The page is one HTML file that loads nothing; its numbers lie beside it as JSON. Several models give one comparison,
NAME@all everything along a run's checkpoints; several curves are seeds of one setting. What was measured once is read
from its record, so that a report which was stopped goes on.
"""

import argparse
import hashlib
import json
import os
import re
import sys
from importlib import import_module
from pathlib import Path

from lib.data import curves
from lib.data.cache import ROOT

FOLDER = ROOT / "_build" / "reports"
CORPUS, MIN_RISE = "wiki-en", 0.005
LONGEST = 80  # characters of a page's name
OF_MODELS, OF_CURVES = ("corpus",), ("loss_column", "step_column", "min_rise")  # options that belong to one page


def on_models(addresses: list[str], out: Path | None = None, corpus: str = CORPUS) -> tuple[list[str], Path]:
    """Write the page on models by address; returns the verdict's sentences and the page. Raises ValueError."""
    study, show, page = _rooms("diagnosis", "any_model")
    out = _place(out, [*addresses, *[corpus] * (corpus != CORPUS)])
    numbers = study.diagnose(addresses, corpus, tell=_say)
    title = "Model " + addresses[0] if len(addresses) == 1 else f"{len(addresses)} models"
    return show.verdict(numbers), page.write(out, title, show.blocks(numbers), numbers)


def on_curves(
    paths: list[str],
    out: Path | None = None,
    loss: str | None = None,
    step: str | None = None,
    min_rise: float = MIN_RISE,
) -> tuple[list[str], Path]:
    """Write the page on the loss curves of files; returns the verdict, how the files were read, and the page.

    loss, step: columns, as `data.curves.read` takes them. Raises ValueError with one sentence.
    """
    study, show, page = _rooms("own_runs", "own_runs")
    out = _place(out, ["loss", *(Path(path).with_suffix("").as_posix() for path in paths)])
    found = curves.read_all(paths, loss, step)
    numbers = study.judge(found, min_rise)
    blocks = show.blocks(numbers, study.drawn(found))
    said = [*show.verdict(numbers), *show.readings(numbers)]
    return said, page.write(out, "Loss curves", blocks, numbers)


def _place(out, asked):
    """The page's file, of which it is known before the work begins that it can be written."""
    if out is None:
        name = re.sub(r"[^\w.@-]+", "-", " ".join(asked)).strip("-.") or "here"
        mark = hashlib.sha256(name.encode()).hexdigest()[:8]
        out = FOLDER / f"{name if len(name) <= LONGEST else f'{name[:LONGEST]}-{mark}'}.html"
    if out.suffix not in (".html", ".htm"):
        raise ValueError(
            f"the page can't be {out}: expected a file that ends in .html; its numbers go beside it as .json"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.is_dir() or not os.access(out if out.exists() else out.parent, os.W_OK):
        raise ValueError(f"the page can't be {out}: that is a folder or may not be written; choose another with --out")
    beside = out.with_suffix(".json")
    if beside.exists() and not _of_a_page(beside):
        raise ValueError(f"the page can't be {out}: its numbers would replace {beside}; choose another with --out")
    return out


def _of_a_page(path):
    """Whether a file holds the numbers of a page, and not a trainer's state or a model's configuration."""
    try:
        return "schema" in json.loads(path.read_text())
    except (OSError, ValueError, TypeError):
        return False


def _rooms(study, show):
    """Who computes, who draws and who writes; `lib.run` knows them by name only."""
    return [import_module(name) for name in (f"lib.study.{study}", f"lib.show.{show}", "lib.show.report")]


def _say(what):
    """A line of progress."""
    print(f"  {what}", file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m lib.run.report", description=__doc__.split("\n")[0])
    parser.add_argument("addresses", nargs="*", help="models; a run's checkpoints as NAME@all")
    parser.add_argument("--corpus", help=f"text that models are measured on (default: {CORPUS})")
    parser.add_argument("--loss", nargs="+", default=[], metavar="FILE", help="loss curves instead: .csv, .jsonl, ...")
    parser.add_argument("--out", type=Path, help="the page (default: in _build/reports)")
    parser.add_argument("--loss-column", help="where it has no usual name")
    parser.add_argument("--step-column", help="where it has no usual name; tokens will do")
    parser.add_argument("--min-rise", type=float, help=f"the smallest relative rise that counts (default: {MIN_RISE})")
    asked = parser.parse_args(arguments)
    os.environ.setdefault("TQDM_DISABLE", "1")  # lines say what is done; read when tqdm is imported
    if bool(asked.addresses) == bool(asked.loss):
        parser.error("expected addresses of models, or --loss and files of loss curves, and not both")
    options = [name for name in (OF_MODELS if asked.loss else OF_CURVES) if getattr(asked, name) is not None]
    if options:
        flags = ", ".join("--" + name.replace("_", "-") for name in options)
        parser.error(f"{flags} has no effect on {'loss curves' if asked.loss else 'models'}: leave it out")
    min_rise = MIN_RISE if asked.min_rise is None else asked.min_rise
    if not 0 < min_rise < 1:
        parser.error(f"--min-rise is {min_rise}: expected a share of the loss between 0 and 1, such as {MIN_RISE}")
    try:
        if asked.loss:
            said, page = on_curves(asked.loss, asked.out, asked.loss_column, asked.step_column, min_rise)
        else:
            said, page = on_models(asked.addresses, asked.out, asked.corpus or CORPUS)
    except (OSError, RuntimeError, ValueError) as error:
        sys.exit(f"error: {error}")
    print("\n".join([*said, f"page: {page}, numbers: {page.with_suffix('.json')}"]))


if __name__ == "__main__":
    main()
