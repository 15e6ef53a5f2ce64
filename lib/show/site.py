"""Sphinx extension of this book: offline assets, figure links, tables from notebooks, mended pages.

Listed under `sphinx.extra_extensions` in `_config.yml`.
"""

import hashlib
import html
import json
import re
import shutil
from html.entities import name2codepoint
from importlib.metadata import distribution
from pathlib import Path

import pandas as pd
import vl_convert
from docutils import nodes

from lib.show import notebooks
from lib.show.directives import BenchTable, ClaimTable, FigureManifest, HubRevisions, RunCosts, RunTimes

ASSETS = Path(__file__).parent / "assets"
GREEK = {name: chr(code) for name, code in name2codepoint.items() if 0x3B1 <= code <= 0x3C9}  # alpha to omega
MATHJAX = ["tex-mml-chtml.js", "output/chtml/fonts", "input/tex/extensions"]


def write_assets(app):
    """Copy everything that a page would otherwise load from a CDN.

    Not through the book's `_static`: Jupyter Book adds a script tag for every .js below it.
    """
    if app.builder.format != "html":
        return
    static = Path(app.outdir) / "_static"
    shutil.copytree(ASSETS, static, dirs_exist_ok=True)
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    (static / "vega.js").write_text("(() => {" + bundle + "})();")  # its top-level consts would collide
    mathjax = Path(distribution("sphinx-mathjax-offline").locate_file("sphinx-mathjax-offline/static/mathjax"))
    for part in MATHJAX:
        source, target = mathjax / part, static / "mathjax" / part
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, target, dirs_exist_ok=True) if source.is_dir() else shutil.copy(source, target)


def read_figures(app):
    """Read all figures, once for what is written of them and for every page that links to them."""
    app.book_figures = notebooks.figures(app.srcdir)


def write_data(app):
    """Write `_data/FIGURE.csv` and `.svg` for each figure; figures.csv and numbers.csv say from what all were made."""
    if app.builder.format != "html":
        return
    folder = Path(app.outdir) / "_data"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    runs = notebooks.runs(app.srcdir)
    runs = runs.set_index("chapter") if len(runs) else runs
    rows = []
    for figure in app.book_figures:
        about = {"figure": figure.name, "mirrors": figure.mirrors, "data": "", "sha256": ""}
        if figure.data is not None:
            (folder / f"{figure.name}.csv").write_text(figure.data, encoding="utf-8")
            about["data"] = f"_data/{figure.name}.csv"
            about["sha256"] = hashlib.sha256(figure.data.encode()).hexdigest()
        if figure.drawing is not None:
            (folder / f"{figure.name}.svg").write_text(figure.drawing, encoding="utf-8")
        rows.append(about | _origin(figure.chapter, figure.made, runs))
    pd.DataFrame(rows).to_csv(folder / "figures.csv", index=False)
    rows = []
    for number in notebooks.numbers(app.srcdir):
        about = {name: number[name] for name in ("number", "value", "mirrors")}
        rows.append(about | _origin(number["chapter"], number["made"], runs))
    pd.DataFrame(rows).to_csv(folder / "numbers.csv", index=False)


def _origin(chapter, made, runs):
    """The columns that figures and numbers share."""
    inputs = "; ".join(f"{name}={hashed}" for name, hashed in made.get("inputs", {}).items())
    run = runs.loc[chapter]
    return {
        "source": f"book/{chapter}.md",
        "command": f"make chapter CH={chapter} PROFILE={run.profile}",
        "parameters": run.parameters,
        "executed": run.finished,
        **{name: made.get(name, "") for name in ("made", "records")},
        "inputs": inputs,
        **{name: made.get(name, "") for name in ("seed", "dtype", "processor", "seconds", "code")},
    }


def link_figures(app, doctree):
    """Add to each figure's caption links to its data, its drawing and its code."""
    known = {figure.name: figure for figure in app.book_figures}
    for figure in doctree.findall(nodes.figure):
        name = next((n for n in figure["names"] if n in known), None)
        caption = next(iter(figure.findall(nodes.caption)), None)
        if name is None or caption is None:
            continue
        anchor = f"code-{name}"
        links = [f'<a href="_data/{name}.csv">data</a>'] if known[name].data is not None else []
        links += [f'<a href="_data/{name}.svg" download>SVG</a>'] if known[name].drawing is not None else []
        links = " · ".join([*links, f'<a href="#{anchor}">code</a>'])
        caption += nodes.raw("", f'<span class="figure-links">{links}</span>', format="html")
        cell = figure.parent
        while cell.parent is not None and "cell" not in cell.get("classes", []):
            cell = cell.parent
        if "cell" in cell.get("classes", []):
            cell["ids"].append(anchor)


def write_previews(app, env):
    """Write `_static/previews.js`: HTML of each captioned figure and each labelled equation, by the id of its place."""
    if app.builder.format != "html":
        return
    drawn = {figure.name for figure in app.book_figures if figure.drawing is not None}
    shown = {}
    for page in sorted(env.found_docs):
        doctree = env.get_doctree(page)
        for figure in doctree.findall(nodes.figure):
            caption = next(iter(figure.findall(nodes.caption)), None)
            for name in figure["ids"] if caption is not None else []:
                image = f'<img src="_data/{name}.svg" alt="">' if name in drawn else ""
                shown[name] = f"{image}<p>{_inline(caption)}</p>"
        for formula in doctree.findall(nodes.math_block):
            if formula.get("label"):
                shown[nodes.make_id(f"equation-{formula['label']}")] = f"\\[{html.escape(formula.astext())}\\]"
    script = f"window.previews = {json.dumps(shown)};\n"
    (Path(app.outdir) / "_static" / "previews.js").write_text(script, encoding="utf-8")


def _inline(caption):
    """Text of a caption as HTML, with its formulas for MathJax, without the links that follow it."""
    parts = [
        f"\\({part.astext()}\\)" if isinstance(part, nodes.math) else part.astext()
        for part in caption
        if not isinstance(part, nodes.raw)
    ]
    return html.escape("".join(parts))


def name_symbols(app, doctree):
    """Let the search find the Greek letters that a page writes in TeX: σ as well as sigma."""
    written = " ".join(node.astext() for kind in (nodes.math, nodes.math_block) for node in doctree.findall(kind))
    names = sorted(set(re.findall(r"\\(?:var)?([a-z]+)", written)) & GREEK.keys())
    if names:
        doctree.insert(0, nodes.meta(name="keywords", content=", ".join(GREEK[name] for name in names)))


def mend_page(app, pagename, templatename, context, doctree):
    """Undo what the theme gets wrong: live-code scripts, buttons to notebooks git lacks, an ARIA role."""
    kept = []
    for script in context.get("script_files", []):
        body = getattr(script, "attributes", {}).get("body", "")
        if "THEBE_JS_URL" in body or str(script.filename).endswith("sphinx-thebe.js"):
            continue  # Jupyter Book 1 always loads sphinx-thebe, from a CDN
        if body and body in [k.attributes.get("body") for k in kept]:
            continue  # Sphinx 7.4 emits inline scripts twice
        kept.append(script)
    context["script_files"][:] = kept
    for group in context.get("header_buttons", []):
        for button in group.get("buttons", []):
            if button.get("url", "").startswith("http"):  # the download of the executed notebook stays
                button["url"] = button["url"].replace(pagename + ".ipynb", pagename + ".md")
    if "body" in context:
        # docutils 0.21 nests the deprecated role in a list
        context["body"] = context["body"].replace('role="doc-biblioentry"', 'role="listitem"')
    icon = context["pathto"]("_static/favicon.svg", 1)
    context["metatags"] = context.get("metatags", "") + f'<link rel="icon" href="{icon}" type="image/svg+xml">'


def setup(app):
    """Register with Sphinx."""
    app.setup_extension("lib.show.terms")
    app.add_directive("bench-table", BenchTable)
    app.add_directive("claim-table", ClaimTable)
    app.add_directive("figure-manifest", FigureManifest)
    app.add_directive("hub-revisions", HubRevisions)
    app.add_directive("run-times", RunTimes)
    app.add_directive("run-costs", RunCosts)
    app.connect("builder-inited", write_assets)
    app.connect("builder-inited", read_figures)
    app.connect("builder-inited", write_data)
    app.connect("doctree-read", link_figures)
    app.connect("env-updated", write_previews)
    app.connect("doctree-read", name_symbols)
    app.connect("html-page-context", mend_page, priority=900)
    app.add_js_file("vega.js", loading_method="defer")
    app.add_js_file("explorer.js", loading_method="defer")  # before the charts, which take their first values from it
    app.add_js_file("charts.js", loading_method="defer")
    app.add_js_file("previews.js", loading_method="defer")
    app.add_js_file("hover.js", loading_method="defer")
    app.add_css_file("paper.css")
    return {"parallel_read_safe": True, "parallel_write_safe": True}
