"""Do my runs saturate? One page, and its numbers as JSON beside it: python -m lib.run.own_runs a.csv b.csv

reads a loss curve from each file, several of them as seeds of one setting.
"""

import argparse
import json
import sys
from importlib import import_module
from pathlib import Path

from lib.data import curves
from lib.data.cache import ROOT


def report(paths: list[str], out: Path, loss: str | None = None, step: str | None = None, min_rise: float = 0.005):
    """Write the page on the loss curves of files to `out`, and its numbers beside it; returns the verdict's sentences.

    loss, step: columns, as `data.curves.read` takes them. Raises ValueError with one sentence.
    """
    study, show, leaf = map(import_module, ("lib.study.own_runs", "lib.show.own_runs", "lib.show.leaf"))
    found = curves.read_all(paths, loss, step)
    numbers = study.judge(found, min_rise)
    leaf.write("Loss curves", show.blocks(numbers, study.drawn(found)), out)
    out.with_suffix(".json").write_text(json.dumps(numbers, indent=1, allow_nan=False), encoding="utf-8")
    return show.verdict(numbers)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m lib.run.own_runs", description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="+", help="loss curves: .csv, .tsv, .jsonl, trainer_state.json")
    parser.add_argument("--out", type=Path, default=ROOT / "_build" / "reports" / "loss.html", help="the page")
    parser.add_argument("--loss-column", help="where it has no usual name")
    parser.add_argument("--step-column", help="where it has no usual name; tokens will do")
    parser.add_argument("--min-rise", type=float, default=0.005, help="the smallest rise that counts (default: 0.005)")
    asked = parser.parse_args(arguments)
    try:
        for sentence in report(asked.files, asked.out, asked.loss_column, asked.step_column, asked.min_rise):
            print(sentence)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    print(f"page: {asked.out}, numbers: {asked.out.with_suffix('.json')}")


if __name__ == "__main__":
    main()
