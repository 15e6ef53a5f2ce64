"""The built site: links, fragments, nothing from outside, every figure and claim of the paper present."""

import hashlib
import json
from html.parser import HTMLParser
from io import StringIO
from urllib.parse import unquote, urlsplit

import altair as alt
import numpy as np
import pandas as pd
import pytest

from lib.data import paper
from lib.run import book as making
from lib.show import charts, light, notebooks, tables


class Page(HTMLParser):
    """Ids, links and loaded addresses of a page."""

    def __init__(self, path):
        super().__init__()
        self.ids, self.links, self.loads = set(), [], []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids.update(v for k, v in attrs.items() if k in ("id", "name") and v)
        if tag == "a" and attrs.get("href"):
            self.links.append(attrs["href"])
        elif tag in ("script", "img", "iframe") and attrs.get("src"):
            self.loads.append(attrs["src"])
        elif tag == "link" and attrs.get("rel") != "canonical" and attrs.get("href"):
            self.loads.append(attrs["href"])


@pytest.fixture(scope="module")
def pages(book):
    """Every page of the site."""
    return {path.resolve(): Page(path) for path in (book / "html").glob("*.html")}


def test_links_and_fragments_resolve_and_nothing_loads_from_outside(pages):
    wrong = []
    for path, page in pages.items():
        wrong += [(path.name, url) for url in page.loads if urlsplit(url).scheme or urlsplit(url).netloc]
        for url in page.links + page.loads:
            parts = urlsplit(url)
            if parts.scheme or parts.netloc or url == "#" or "=" in parts.fragment:  # a choice in the explorer
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if (
                not target.exists()
                or parts.fragment
                and target in pages
                and unquote(parts.fragment) not in pages[target].ids
            ):
                wrong.append((path.name, url))
    assert wrong == []


def test_each_chapter_gives_its_executed_notebook_to_download(book, pages):
    for path in sorted((book / "notebooks").glob("*.ipynb")):
        given = book / "html" / "_sources" / path.name
        assert f"_sources/{path.name}" in pages[given.parents[1].resolve() / f"{path.stem}.html"].links
        ours, theirs = (json.loads(one.read_text())["cells"] for one in (path, given))
        for cell, shown in zip(ours, theirs, strict=True):
            assert (cell["source"], cell.get("execution_count")) == (shown["source"], shown.get("execution_count"))
            assert len(cell.get("outputs", ())) == len(shown.get("outputs", ()))
            assert all(output["data"] for output in shown.get("outputs", ()) if "data" in output)
        assert any(cell["outputs"] for cell in theirs if cell["cell_type"] == "code")


def test_a_chart_keeps_what_it_draws():
    rows = [{"x": 1 / 3, "unseen": 0.5, "n": 2**40}]
    spec = {"datasets": {"a": rows}, "encoding": {"x": "x"}, "transform": [{"filter": "datum.n > 0 </script>"}]}
    slim = light.slim(json.dumps(spec))
    assert json.loads(slim) == spec | {"datasets": {"a": [{"x": 0.333333, "n": 2**40}]}} and "</script>" not in slim


def test_pages_are_light(book):
    sizes = {path.name: path.stat().st_size for path in (book / "html").glob("*.html")}
    assert max(sizes.values()) < 1.5e6, max(sizes, key=sizes.get)
    assert sum(path.stat().st_size for path in (book / "html").rglob("*") if path.is_file()) < 25e6


def test_every_figure_has_data_that_reads_back(book):
    manifest = pd.read_csv(book / "html" / "_data" / "figures.csv")
    assert len(manifest) == len(notebooks.figures(book / "source")) > 0
    assert manifest.figure.is_unique
    for figure in manifest.dropna(subset="data").itertuples():
        assert len(pd.read_csv(book / "html" / figure.data)) > 0, figure.figure


PAPER = {*(f"Figure {k}" for k in range(1, 10)), "Table 1", "Lemma 5.1", "Lemma 5.2", "Theorem 5.3"}


def test_all_that_the_paper_shows_is_mirrored_and_says_from_what_it_was_made(book):
    figures, numbers = (pd.read_csv(book / "html" / "_data" / f"{name}.csv") for name in ("figures", "numbers"))
    both = pd.concat([figures, numbers])
    assert PAPER <= set(both.mirrors.dropna())
    mirrors = both[both.mirrors.isin(PAPER)]
    always = ["source", "command", "executed", "made", "records", "processor", "seconds", "code"]
    assert (
        mirrors[always].notna().all(axis=None)
        and both.made.isin(["computed", "recorded", "computed and recorded"]).all()
    )
    inputs = mirrors.inputs.dropna().str.split("; ").explode()
    assert inputs.str.fullmatch(r"\S.*=[\w./@-]+").all() and "paper.json" in set(inputs.str.partition("=")[0])
    drawn = figures[figures.data.notna()]
    for figure in drawn.itertuples():
        assert hashlib.sha256((book / "html" / figure.data).read_bytes()).hexdigest() == figure.sha256
    assert numbers.number.is_unique and len(numbers) > 100


def test_every_claim_has_a_computed_verdict_on_the_first_page(book):
    left = {verdict["claim"] for verdict in notebooks.verdicts(book / "source")}
    assert left == set(paper.claims())
    front = (book / "html" / "index.html").read_text()
    assert "not yet tested" not in front
    assert all(f">{claim}<" in front for claim in left)


def test_charts_stay_small_and_describe_themselves(book):
    for chapter, notebook in notebooks.notebooks(book / "source").items():
        for cell in notebook["cells"]:
            for output in cell.get("outputs", []):
                markup = "".join(output.get("data", {}).get("text/html", ""))
                if chart := notebooks.CHART.search(markup):
                    rows = sum(len(rows) for rows in json.loads(chart["spec"]).get("datasets", {}).values())
                    assert rows <= 4000, (chapter, rows)
                    assert 'aria-label=""' not in markup


def test_no_chapter_writes_to_stderr(book):
    for chapter, notebook in notebooks.notebooks(book / "source").items():
        noise = [o["text"] for c in notebook["cells"] for o in c.get("outputs", []) if o.get("name") == "stderr"]
        assert noise == [], chapter


def notebook(output):
    """A notebook of one figure."""
    cell = {"cell_type": "code", "metadata": {"mystnb": {"figure": {"name": "fig-x"}}}, "outputs": [output]}
    return json.dumps({"metadata": {}, "cells": [cell]})


ODD = {
    "name": ["007", "1e5", "NA", "2024-01-01", "true"],
    "count": [1, 2**60 + 1, 3, 4, 5],
    "rate": [1 / 3, 0, 1, 2, 3],
}


def test_data_of_a_table_are_those_of_its_frame(tmp_path):
    """Text that reads like a number stays text, and digits that the table does not show are kept."""
    data, metadata = tables.table(pd.DataFrame(ODD), {"rate": 2})._repr_mimebundle_()
    (tmp_path / "x.ipynb").write_text(notebook({"data": data, "metadata": metadata}))
    (figure,) = notebooks.figures(tmp_path)
    back = pd.read_csv(StringIO(figure.data), dtype={"name": str}, keep_default_na=False)
    pd.testing.assert_frame_equal(back, pd.DataFrame(ODD))
    assert "0.33<" in data["text/html"]


def test_a_table_speaks_in_words_says_them_once_and_folds_what_is_long():
    frame = pd.DataFrame({"arm": ["a"] * 9 + ["b"] * 9, "best_loss": np.arange(18.0), "n": 1}).assign(last=12345.6)
    markup = tables.table(frame, {"best_loss": 1}).markup
    assert "lowest loss (nats)" in markup and "best_loss" not in markup and "12,346" in markup
    assert markup.count(">a</td>") == 1 and markup.count("<td>1</td>") == 18
    shown, folded = markup.split("<details><summary>6 rows more</summary>")
    assert shown.count(">b</td>") == folded.count(">b</td>") == 1
    assert "17.0" in folded and "<details>" not in tables.table(frame[:10]).markup


def test_data_of_a_chart_keep_their_types(tmp_path):
    frame = pd.DataFrame({"name": ["007", "1e5"], "count": [1, 2]})
    other = pd.DataFrame({"level": [0.5]})
    dots = alt.Chart(frame).mark_point().encode(x="count:Q", y="name:N")
    chart = alt.layer(dots, alt.Chart(other).mark_rule().encode(y="level:Q"), description="two data sets")
    (tmp_path / "x.ipynb").write_text(notebook({"data": charts.bundle(chart.to_dict()), "metadata": {}}))
    (figure,) = notebooks.figures(tmp_path)
    assert sorted(figure.data.splitlines()) == [",,0.5", "007,1,", "1e5,2,", "name,count,level"]


@pytest.mark.parametrize(
    ("origin", "shown"),
    [
        ("https://example.org/a/b.git", "https://example.org/a/b"),
        ("https://user:secret@example.org/a/b.git/", "https://example.org/a/b"),
        ("https://secret@example.org:8443/a/b", "https://example.org:8443/a/b"),
        ("https://example.org/a/b.git?token=secret#secret", "https://example.org/a/b"),
        ("git@example.org:a/b.git", "https://example.org/a/b"),
        ("secret@example.org:/a/b", "https://example.org/a/b"),
        ("ssh://git@example.org:22/a/b.git", "https://example.org/a/b"),
        ("http://secret@example.org/a/b", None),
        ("https://secret@/a/b", None),
        ("https://example.org:secret/a/b", None),
        ("https://example.org/x-token:secret@/a/b.git", None),
        ("https://example.org/a/b;secret", None),
        ("https://[::1]/secret/b", None),
        ("/home/secret/b", None),
        ("file:///home/secret/b", None),
        ("", None),
    ],
)
def test_no_secret_of_the_origin_is_published(origin, shown):
    assert making.public(origin) == shown
    assert "secret" not in json.dumps(making.configuration(making.public(origin)))
