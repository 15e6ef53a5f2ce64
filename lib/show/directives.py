"""Directives whose tables are read from the executed notebooks: claims, figures, run times, revisions."""

import json
import re
import tomllib
from pathlib import Path

import pandas as pd
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

from lib.show import notebooks

FIGURES = {  # where a claim is seen
    "C1": "fig-saturation-seeds",
    "C2": "fig-saturation-own",
    "C4": "fig-families",
    "C5": "fig-along",
    "C6": "fig-entropy",
    "C7": "fig-rank-cost",
    "C8": "fig-ngram-curves",
    "C9": "fig-theorem-53",
    "C10": "fig-rank-werror",
}
CLAIMS = Path(__file__).parents[1] / "data" / "paper.json"
COSTS = Path(__file__).parents[1] / "run" / "costs.toml"


def escape(text):
    """Text as MyST that shows it literally, in one cell of a table."""
    return re.sub(r"([\\`*_{}\[\]<>$|~^#])", r"\\\1", str(text)).replace("\n", " ")


class Table(SphinxDirective):
    """Base: `rows()` gives a data frame of MyST, rendered as a table that scrolls on a phone."""

    kind = "table"
    empty = "Nothing yet."

    def rows(self):
        """Data frame of MyST texts."""
        raise NotImplementedError

    def run(self):
        """Nodes of the table; rebuilt whenever a notebook changes."""
        for path in Path(self.env.srcdir).glob("*.ipynb"):
            self.env.note_dependency(str(path))
        frame = self.rows()
        if frame.empty:
            return [nodes.paragraph(text=self.empty)]
        lines = ["| " + " | ".join(frame.columns) + " |", "|" + " --- |" * len(frame.columns)]
        lines += ["| " + " | ".join(map(str, row)) + " |" for row in frame.itertuples(index=False)]
        box = nodes.container(classes=["table-box"])
        self.state.nested_parse(StringList(lines, "table"), self.content_offset, box)
        for table in box.findall(nodes.table):
            table["classes"].append(self.kind)
        return [box]


UNTESTED = {"numbers": "not yet tested", "reading": "", "evidence": [], "control": ""}


def evidence(verdict):
    """The evidence of one verdict as MyST: source by source, then the control, then the chapter."""
    lines = [f"*{escape(e['source'])}*, {e['numbers']}: {escape(e['text'])}" for e in verdict["evidence"]]
    lines += [f"*Control*: {escape(verdict['control'])}"] if verdict["control"] else []
    if "chapter" in verdict:
        figure = f", {{numref}}`{FIGURES[verdict['claim']]}`" if verdict["claim"] in FIGURES else ""
        lines.append(f"{{doc}}`{verdict['chapter']}`{figure}")
    return "<br>".join(lines)


class ClaimTable(Table):
    """The paper's claims with the answers of the chapters; a claim without one says so."""

    kind = "claims"

    def rows(self):
        """One row for each verdict."""
        self.env.note_dependency(str(CLAIMS))
        left = notebooks.verdicts(self.env.srcdir)
        rows, known = [], json.loads(CLAIMS.read_text())["claims"]
        if odd := sorted({v["claim"] for v in left} - set(known)):
            raise ValueError(f"a chapter judges {', '.join(odd)}, no claim of paper.json: expected {', '.join(known)}")
        for name, claim in sorted(known.items(), key=lambda item: int(item[0].removeprefix("C"))):
            mine = [v for v in left if v["claim"] == name] or [UNTESTED]
            for verdict in mine:
                rows.append(
                    {
                        "Claim": name,
                        "What the paper says": f"{escape(claim['sentence'])} ({escape(claim['where'])})",
                        "Numbers": f"**{verdict['numbers']}**",
                        "Reading": f"**{verdict['reading']}**",
                        "Evidence": evidence(verdict),
                    }
                )
        return pd.DataFrame(rows)


class FigureManifest(Table):
    """Every figure of the book: what it mirrors, how it was made, and its data."""

    kind = "manifest"

    def rows(self):
        """One row for each figure."""
        rows = []
        for figure in notebooks.figures(self.env.srcdir):
            rows.append(
                {
                    "Figure": f"{{numref}}`{figure.name}`",
                    "In the paper": escape(figure.mirrors),
                    "Chapter": f"{{doc}}`{figure.chapter}`",
                    "Made": escape(_how(figure.made)),
                    "Data": f'<a href="_data/{figure.name}.csv">CSV</a>' if figure.data is not None else "",
                }
            )
        return pd.DataFrame(rows, columns=["Figure", "In the paper", "Chapter", "Made", "Data"])


def _how(made):
    """Computed or recorded, in how long, with which seed and dtype, on one line."""
    if not made:
        return ""
    seed = f"seed {made['seed']}" if made["seed"] else ""
    return ", ".join(filter(None, [made["made"], f"{made['seconds']:,.0f} s", seed, made["dtype"]]))


class RunTimes(Table):
    """When and for how long each chapter ran, by papermill's account."""

    kind = "runtimes"

    def rows(self):
        """One row for each executed chapter."""
        runs = notebooks.runs(self.env.srcdir)
        return pd.DataFrame(
            {
                "Chapter": [f"{{doc}}`{chapter}`" for chapter in runs.chapter],
                "Finished (UTC)": runs.finished,
                "Seconds": [f"{seconds:.1f}" if seconds is not None else "" for seconds in runs.seconds],
                "Profile": runs.profile,
                "Overrides": [f"`{json.dumps(p)}`".replace("|", r"\|") if p else "" for p in runs.parameters],
            }
        )


class RunCosts(Table):
    """What the laptop profile takes with nothing cached, on the machines on which it was measured."""

    kind = "runcosts"

    def rows(self):
        """One row for each stage, a dash where it was not measured, and the sum of what was."""
        self.env.note_dependency(str(COSTS))
        costs = tomllib.loads(COSTS.read_text())
        minutes = pd.DataFrame({stage: cost["seconds"] for stage, cost in costs["laptop"].items()}).T / 60
        minutes.loc["all"] = minutes.sum()
        names = {"suite": "the suite", "site": "the site", "all": "**all**"}
        stages = [names.get(stage, f"{{doc}}`{stage}`") for stage in minutes.index]
        columns = {escape(machine["name"]): minutes[number] for number, machine in enumerate(costs["machine"])}
        return pd.DataFrame(
            {"Minutes for": stages}
            | {name: [f"{m:.1f}" if m else "–" for m in column] for name, column in columns.items()}
        )


class BenchTable(Table):
    """What `make bench` measured, and on which processor, from `bench.json` beside the notebooks."""

    kind = "bench"
    empty = "Nothing was measured for these pages: make bench writes the table."

    def rows(self):
        """One row for each line, the limits of the processor first and last."""
        path = Path(self.env.srcdir) / "bench.json"
        self.env.note_dependency(str(path))
        if not path.exists():
            return pd.DataFrame()
        found = json.loads(path.read_text())
        heading = f"{found['processor']}, {found['finished'][:10]}, torch {found['versions']['torch']}"
        return pd.DataFrame(
            {
                "Measured": [escape(row["what"]) for row in found["rows"]],
                escape(heading): [escape(row["measured"]) for row in found["rows"]],
                "Target": [escape(row["target"]) for row in found["rows"]],
                "": ["" if not row["target"] else "met" if row["ok"] else "**missed**" for row in found["rows"]],
            }
        )


class HubRevisions(Table):
    """Commits to which names on the model hub were resolved, from `revisions.json` beside the notebooks."""

    kind = "revisions"
    empty = "None: for these pages nothing was read from the hub."

    def rows(self):
        """One row for each repository and revision."""
        path = Path(self.env.srcdir) / "revisions.json"
        self.env.note_dependency(str(path))
        resolved = json.loads(path.read_text()) if path.exists() else {}
        return pd.DataFrame(
            {"On the hub": [escape(n) for n in resolved], "Commit": [f"`{c}`" for c in resolved.values()]}
        )
