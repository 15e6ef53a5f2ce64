"""What the executed notebooks of a folder hold: runs, verdicts, figures and the data of the figures."""

import json
import re
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pandas as pd

from lib.show.claims import KEY

SPEC = re.compile(r'<div class="vl-chart".*?<script type="application/json">(.*?)</script>', re.S)


@dataclass(frozen=True)
class Figure:
    """A captioned figure: its label, its chapter, what of the paper it mirrors, and its data."""

    name: str
    chapter: str
    mirrors: str
    data: pd.DataFrame | None


def notebooks(folder):
    """Executed notebooks of a folder: stem -> notebook as JSON."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(Path(folder).glob("*.ipynb"))}


def runs(folder):
    """Papermill's account of each chapter: chapter, when it ended, seconds, profile, parameters."""
    rows = []
    for chapter, notebook in notebooks(folder).items():
        account = notebook["metadata"].get("papermill", {})
        rows.append(
            {
                "chapter": chapter,
                "finished": account.get("end_time", "")[:16].replace("T", " "),
                "seconds": account.get("duration"),
                "profile": notebook["metadata"].get("book_profile", ""),
                "parameters": account.get("parameters", {}),
            }
        )
    return pd.DataFrame(rows)


def verdicts(folder):
    """Verdicts that the chapters left: one dict for each, with its chapter."""
    return [
        output["metadata"][KEY] | {"chapter": chapter}
        for chapter, _, output in _outputs(folder)
        if KEY in output.get("metadata", {})
    ]


def figures(folder):
    """Captioned figures in the order of the chapters."""
    found = []
    for chapter, cell, output in _outputs(folder):
        figure = cell["metadata"].get("mystnb", {}).get("figure", {})
        markup = output.get("data", {}).get("text/html")
        if "name" in figure and markup:
            mirrors = cell["metadata"].get("mirrors", "")
            found.append(Figure(figure["name"], chapter, mirrors, data("".join(markup))))
    return found


def data(markup):
    """Rows behind a chart or a table given as HTML; several data sets of a chart stand one below the other."""
    if spec := SPEC.search(markup):
        sets = json.loads(spec[1]).get("datasets", {}).values()
        return pd.concat([pd.DataFrame(rows) for rows in sets], ignore_index=True) if sets else None
    if "book-table" in markup:
        return pd.read_html(StringIO(markup))[0]
    return None


def _outputs(folder):
    for chapter, notebook in notebooks(folder).items():
        for cell in notebook["cells"]:
            for output in cell.get("outputs", []):
                yield chapter, cell, output
