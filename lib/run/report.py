"""One page on any model, or on loss curves: python -m lib.run.report ADDRESS ... (or --loss FILE ...)

The page is one HTML file that loads nothing; its numbers lie beside it as JSON. Several models give one comparison,
NAME@all everything along a run's checkpoints; several curves are seeds of one setting. What was measured once is read
from its record, so that a report which was stopped goes on.
"""

import argparse
import os
import re
import sys
from importlib import import_module
from pathlib import Path

from lib.data import curves
from lib.data.cache import ROOT

FOLDER = ROOT / "_build" / "reports"


def on_models(addresses: list[str], out: Path | None = None, corpus: str = "wiki-en") -> tuple[list[str], Path]:
    """Write the page on models by address; returns the verdict's sentences and the page. Raises ValueError."""
    study, show, page = _rooms("diagnosis", "any_model")
    numbers = study.diagnose(addresses, corpus, tell=_say)
    name = re.sub(r"[^\w.@-]+", "-", " ".join(addresses)).strip("-.")[:80]
    title = "Model " + addresses[0] if len(addresses) == 1 else f"{len(addresses)} models"
    return show.verdict(numbers), page.write(out or FOLDER / f"{name}.html", title, show.blocks(numbers), numbers)


def on_curves(
    paths: list[str],
    out: Path | None = None,
    loss: str | None = None,
    step: str | None = None,
    min_rise: float = 0.005,
) -> tuple[list[str], Path]:
    """Write the page on the loss curves of files; returns the verdict's sentences and the page.

    loss, step: columns, as `data.curves.read` takes them. Raises ValueError with one sentence.
    """
    study, show, page = _rooms("own_runs", "own_runs")
    found = curves.read_all(paths, loss, step)
    numbers = study.judge(found, min_rise)
    blocks = show.blocks(numbers, study.drawn(found))
    return show.verdict(numbers), page.write(out or FOLDER / "loss.html", "Loss curves", blocks, numbers)


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
    parser.add_argument("--corpus", default="wiki-en", help="text that models are measured on (default: wiki-en)")
    parser.add_argument("--loss", nargs="+", default=[], metavar="FILE", help="loss curves instead: .csv, .jsonl, ...")
    parser.add_argument("--out", type=Path, help="the page (default: in _build/reports)")
    parser.add_argument("--loss-column", help="where it has no usual name")
    parser.add_argument("--step-column", help="where it has no usual name; tokens will do")
    parser.add_argument("--min-rise", type=float, default=0.005, help="the smallest rise that counts (default: 0.005)")
    asked = parser.parse_args(arguments)
    os.environ.setdefault("TQDM_DISABLE", "1")  # lines say what is done; read when tqdm is imported
    if bool(asked.addresses) == bool(asked.loss):
        parser.error("expected addresses of models, or --loss and files of loss curves, and not both")
    try:
        if asked.loss:
            said, page = on_curves(asked.loss, asked.out, asked.loss_column, asked.step_column, asked.min_rise)
        else:
            said, page = on_models(asked.addresses, asked.out, asked.corpus)
    except (OSError, RuntimeError, ValueError) as error:
        sys.exit(f"error: {error}")
    print("\n".join([*said, f"page: {page}, numbers: {page.with_suffix('.json')}"]))


if __name__ == "__main__":
    main()
