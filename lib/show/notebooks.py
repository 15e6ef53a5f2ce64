"""What the executed notebooks of a folder hold: runs, verdicts, figures and the data of the figures."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from lib.show.claims import KEY
from lib.show.tables import DATA

CHART = re.compile(  # as `show.charts` writes it, and Sphinx after it
    r'(?P<box><div class="vl-chart"[^>]*>\s*(?P<svg><svg.*?</svg>))'
    r'<script type="application/json">(?P<spec>.*?)</script>',
    re.S,
)
MADE = "book_provenance"  # in the metadata of a cell
GLUED = "application/papermill.record/text/plain"


@dataclass(frozen=True)
class Figure:
    """A captioned figure: its label, chapter, what of the paper it mirrors, its data, how it was made, its SVG."""

    name: str
    chapter: str
    mirrors: str
    data: str | None  # CSV
    made: dict
    drawing: str | None  # of a chart


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
            csv = output["metadata"].get(DATA) or chart_data("".join(markup))
            chart = CHART.search("".join(markup))
            made = cell["metadata"].get(MADE, {})
            found.append(Figure(figure["name"], chapter, mirrors, csv, made, chart and chart["svg"]))
    return found


def numbers(folder):
    """Numbers that chapters tell, answers on claims among them: number, value, mirrors, chapter, made."""
    rows = []
    for chapter, cell, output in _outputs(folder):
        about = output.get("metadata", {})
        told = {about["scrapbook"]["name"]: "".join(output["data"][GLUED])} if GLUED in output.get("data", {}) else {}
        if KEY in about:
            told |= {f"{about[KEY]['claim']}-{answer}": about[KEY][answer] for answer in ("numbers", "reading")}
        mirrors, made = cell["metadata"].get("mirrors", ""), cell["metadata"].get(MADE, {})
        rows += [
            {"number": name, "value": value, "mirrors": mirrors, "chapter": chapter, "made": made}
            for name, value in told.items()
        ]
    return rows


def chart_data(markup):
    """Rows behind a chart given as HTML, as CSV; its data sets stand one below the other. None for what is no chart."""
    chart = CHART.search(markup)
    rows = [row for each in json.loads(chart["spec"]).get("datasets", {}).values() for row in each] if chart else []
    # As objects: a whole number stays one where another data set lacks the column, and text stays text.
    return pd.DataFrame(rows, dtype=object).to_csv(index=False) if rows else None


def _outputs(folder):
    for chapter, notebook in notebooks(folder).items():
        for cell in notebook["cells"]:
            for output in cell.get("outputs", []):
                yield chapter, cell, output
