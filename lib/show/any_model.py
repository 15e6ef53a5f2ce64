"""The laboratory's page on models: charts and tables of the numbers of `study.diagnosis`, each with what is normal."""

import altair as alt
import pandas as pd

from lib.show import charts
from lib.show.report import Block, Bullets, Chart, Heading, Paragraph, Table
from lib.show.said import RAW, VIEWS, ended, verdict
from lib.show.training import STEP

ALONG = {"loss": "loss, nats", "anisotropy": "anisotropy", "entropy": "singular entropy, nats", "offset": "mean logit"}
TRUNCATION = (
    "Heads are cut in closed form, not trained: the cut has the least squared error of the centred logits on training "
    "text, each token counted by the probability that the model gives it (the weighted arm of Section 5.1). A trained "
    "head of the same rank costs less, so these costs are upper bounds. Intervals are 95 %, over documents."
)


def blocks(numbers: dict) -> list[Block]:
    """The page, from the numbers of `study.diagnosis.diagnose`."""
    last = ended(numbers)
    page = [Heading("Verdict"), Bullets(verdict(numbers)), Heading("Shape"), Table(shapes(last))]
    if numbers["series"]:
        page += [Heading("Along training"), Chart(along(numbers)), Table(series(numbers))]
    page += [Heading("Spectrum of the head"), Chart(spectrum(numbers)), Table(entropies(last))]
    page += [Paragraph(normal_entropy(numbers)), Heading("Anisotropy by layer"), Chart(layers(numbers))]
    page += [Paragraph(normal_anisotropy(numbers)), Heading("What a head of lower rank costs")]
    page += [Chart(costs(numbers)), Table(smallest(last)), Paragraph(TRUNCATION)]
    page += [Chart(errors(numbers)), Paragraph(normal_error(numbers))]
    page += [Heading("Health of the logits"), Table(logits(last)), Paragraph(normal_logits(numbers))]
    page += [Heading("Where it stands"), Chart(standing(numbers)), Table(public(numbers))]
    sizes = numbers["sizes"]
    return [
        *page,
        Heading("How it was measured"),
        Paragraph(
            f"On {numbers['corpus']}: cuts were decided on {sizes['tokens']:,} tokens of its training part, losses "
            f"taken on {sizes['held_out']:,} of its held-out part, in documents of at most {sizes['longest']} tokens. "
            "Every loss is the model's own, with what it does to its logits after the head."
        ),
    ]


def frame(numbers: dict, part: str) -> pd.DataFrame:
    """A part of each model (spectrum, entropies, layers, rank_costs, smallest, logits, shape) as one frame."""
    rows = []
    for model in numbers["models"]:
        held = model[part] if isinstance(model[part], list) else [model[part]]
        rows += [{"model": model["address"]} | row for row in held]
    return pd.DataFrame(rows)


def shapes(numbers: dict) -> pd.DataFrame:
    """Class, sizes and what is done to the logits after the head, of each model."""
    table = frame(numbers, "shape")
    after = [
        ", ".join(
            ([f"times {row.scale:.4g}"] if row.scale != 1 else [])
            + (["a bias"] if row.bias else [])
            + ([f"a soft cap at {row.cap:g}"] if pd.notna(row.cap) else [])
        )
        for row in table.itertuples()
    ]
    table = table.assign(head=["the embedding" if tied else "its own" for tied in table.tied])
    return table.drop(columns=["tied", "scale", "bias", "cap"]).assign(
        after_the_head=[one or "nothing" for one in after]
    )


def spectrum(numbers: dict) -> alt.Chart:
    """Singular values of each head by rank, in three views."""
    text = "Singular values of the head by rank: as it is, without its mean row, without the frequency axis too"
    lines = alt.Chart(_some(frame(numbers, "spectrum")), description=text).mark_line()
    return lines.encode(
        alt.X("rank:Q").scale(type="log"),
        alt.Y("sigma:Q", title="singular value").scale(type="log"),
        *_colours(numbers, alt.Color("view:N", title=None, sort=list(VIEWS)), alt.StrokeDash("view:N", title=None)),
        tooltip=["model", "view", "rank", "sigma"],
    )


def entropies(numbers: dict) -> pd.DataFrame:
    """Singular entropy and effective rank of each view of each head."""
    return frame(numbers, "entropies")[["model", "view", "entropy", "effective_rank"]]


def layers(numbers: dict) -> alt.LayerChart:
    """Anisotropy by layer, with intervals over documents; squares after the final norm."""
    base = alt.Chart(_some(frame(numbers, "layers"))).encode(
        alt.X("layer:Q", title="layer (0: embeddings)").axis(tickMinStep=1, format="d")
    )
    base = base.encode(_by_model(numbers))
    before, after = base.transform_filter("!datum.final_norm"), base.transform_filter("datum.final_norm")
    band = before.mark_area(opacity=0.2).encode(alt.Y("low:Q", title="anisotropy"), alt.Y2("high:Q"))
    tip = ["model", "layer", "final_norm", "anisotropy", "low", "high"]
    line = before.mark_line(point=True).encode(alt.Y("anisotropy:Q"), tooltip=tip)
    square = after.mark_square(size=80).encode(alt.Y("anisotropy:Q"), tooltip=tip)
    level = alt.Chart(pd.DataFrame({"level": [numbers["normal"]["anisotropic"]]})).mark_rule(strokeDash=[2, 3])
    text = "Mean cosine of states by layer; squares after the final norm; the dashed line parts the paper's models"
    return alt.layer(level.encode(y="level:Q"), band, line, square, description=text)


def costs(numbers: dict) -> alt.LayerChart:
    """What the head cut to each rank costs, with intervals over documents, and the three costs that are sought."""
    base = _by_share(numbers)
    line = base.mark_line(point=True).encode(
        alt.Y("cost:Q", title="cost, nats").scale(type="symlog", constant=0.02),
        tooltip=["model", "rank", "cost", "low", "high", "w_error", "w_error_centred"],
    )
    bars = base.mark_rule().encode(alt.Y("low:Q"), alt.Y2("high:Q"))
    levels = [row["within"] for row in numbers["models"][0]["smallest"]]
    rules = alt.Chart(pd.DataFrame({"level": levels})).mark_rule(strokeDash=[2, 3]).encode(y="level:Q")
    return alt.layer(rules, bars, line, description="Cost in nats of a head cut to each rank, on held-out text")


def errors(numbers: dict) -> alt.LayerChart:
    """W-error of each head cut to each rank, raw (solid) and without the mean row, and the paper's break."""
    names = {"w_error": "raw", "w_error_centred": "mean row removed"}
    base = _by_share(numbers).transform_fold(list(names), ["kind", "error"])
    base = base.transform_calculate(view=f"{names}[datum.kind]")
    line = base.mark_line(point=True).encode(
        alt.Y("error:Q", title="W-error"),
        alt.StrokeDash("view:N", title=None, sort=list(names.values())).legend(**charts.STROKES),
        tooltip=["model", "rank", "w_error", "w_error_centred"],
    )
    level = alt.Chart(pd.DataFrame({"level": [numbers["normal"]["w_error"]]})).mark_rule(strokeDash=[2, 3])
    text = (
        "W-error of the head cut to each rank, as it is and without its mean row; dashed: where the paper sees a break"
    )
    return alt.layer(level.encode(y="level:Q"), line, description=text)


def smallest(numbers: dict) -> pd.DataFrame:
    """The smallest rank within each cost, and by the ends of the cost's interval."""
    table = frame(numbers, "smallest")
    names = {"within": "within, nats", "rank_low": "rank, at least", "rank_high": "rank, at most"}
    table = table.assign(share=100 * table.share).rename(columns=names | {"share": "share of the width, %"})
    return table


def logits(numbers: dict) -> pd.DataFrame:
    """Size and spacing of the logits, what rounding costs, and what the head passes on, of each model."""
    table = frame(numbers, "logits")
    columns = "loss offset spread largest spacing_fp16 spacing_bf16 cost_fp16 cost_bf16 delta_1 delta_16 passed chance"
    long = table.set_index("model")[columns.split()].T
    names = {
        "loss": "loss, nats", "offset": "mean logit", "spread": "its deviation over positions",
        "largest": "largest logit", "spacing_fp16": "spacing of fp16 there", "spacing_bf16": "spacing of bf16 there",
        "cost_fp16": "cost of fp16 logits, nats", "cost_bf16": "cost of bf16 logits, nats",
        "delta_1": "δ at κ = 1", "delta_16": "δ at κ = 1/16", "passed": "share of the gradient passed on",
        "chance": "share of a random direction, √(d/V)",
    }  # fmt: skip
    return long.rename(index=names).rename_axis("quantity").reset_index().rename_axis(columns=None)


def standing(numbers: dict) -> alt.ConcatChart:
    """Anisotropy of the last layer and raw singular entropy against width, beside the paper's models and the suite."""
    rows = pd.DataFrame(numbers["standing"])
    panels = []
    for column, title in {"anisotropy": "last-layer anisotropy", "entropy": "singular entropy, nats"}.items():
        base = alt.Chart(rows.dropna(subset=column), width=250).mark_point(size=80, filled=True, opacity=0.8)
        panels.append(
            base.encode(
                alt.X("width:Q", title="hidden dimension").scale(type="log"),
                alt.Y(f"{column}:Q", title=title),
                alt.Color("source:N", title=None),
                alt.Shape("source:N", title=None),
                tooltip=["source", "model", "width", column],
            )
        )
    text = "Anisotropy and singular entropy against width: the paper's models, this book's suite and those asked for"
    return alt.concat(*panels, columns=2, description=text)


def public(numbers: dict) -> pd.DataFrame:
    """Public training runs by width, and how many of them saturate."""
    rows = pd.DataFrame(numbers["standing"]).query("source == 'public runs'")
    table = rows[["model", "width", "runs", "saturated"]]
    return table.astype({"width": int, "runs": int, "saturated": int}).sort_values("width", ignore_index=True)


def series(numbers: dict) -> pd.DataFrame:
    """The detector's verdict on the loss of each run; rises in per cent."""
    table = pd.DataFrame(numbers["series"])
    per_cent = {"effect, %": 100 * table.effect, "from %": 100 * table.low, "to %": 100 * table.high}
    return table[["run", "kind", "best_step", "best_loss", "final_loss"]].assign(**per_cent)


def along(numbers: dict) -> alt.ConcatChart:
    """Loss, anisotropy, raw singular entropy and mean logit along each run, against steps."""
    rows = []
    for model in numbers["models"]:
        run, _, revision = model["address"].partition("@step")
        if revision.isdecimal():
            raw = next(row["entropy"] for row in model["entropies"] if row["view"] == RAW)
            values = {"loss": model["logits"]["loss"], "anisotropy": model["layers"][-1]["anisotropy"], "entropy": raw}
            rows.append({"run": run, "step": int(revision)} | values | {"offset": model["logits"]["offset"]})
    table = pd.DataFrame(rows)
    panels = []
    for column, title in ALONG.items():
        base = alt.Chart(table, width=230, height=150).mark_line(point=True)
        colour = alt.Color("run:N", title=None) if table.run.nunique() > 1 else alt.value(charts.PALETTE[0])
        y = alt.Y(f"{column}:Q", title=title).scale(zero=False)
        panels.append(base.encode(STEP, y, color=colour, tooltip=["run", "step", column]))
    return alt.concat(
        *panels, columns=2, description="Loss, anisotropy, singular entropy and mean logit along training"
    )


def _by_share(numbers):
    """Costs and errors of heads cut below their width, against the share that is left."""
    rows = _some(frame(numbers, "rank_costs"))
    rows = rows.assign(share=rows["rank"] / rows.groupby("model")["rank"].transform("max")).query("share < 1")
    return alt.Chart(rows).encode(alt.X("share:Q", title="rank / width").axis(format="%"), _by_model(numbers))


def _some(rows, most=6):
    """A chart's rows of the last models: more can't be told apart."""
    return rows[rows.model.isin(rows.model.unique()[-most:])]


def _by_model(numbers):
    single = len(numbers["models"]) == 1
    scale = charts.colours(model["address"] for model in numbers["models"])
    return alt.Color("model:N", title=None, scale=scale, legend=None if single else alt.Legend(columns=2))


def _colours(numbers, alone, second):
    """Views by colour for a single model; models by colour and views by dash for several."""
    return [alone] if len(numbers["models"]) == 1 else [_by_model(numbers), second]


def _others(numbers, column):
    rows = pd.DataFrame(numbers["standing"]).dropna(subset=column)
    return rows[rows.source == "the paper"]


def normal_entropy(numbers: dict) -> str:
    """What singular entropies are normal, in a paragraph."""
    low, high = _others(numbers, "entropy").entropy.agg(["min", "max"])
    return (
        f"Normal: at the end of training the paper's Pythias have a raw singular entropy of {low:.2f} to {high:.2f} "
        "nats, the higher the narrower. 0 is a flat spectrum. What only the raw head shows lies in its mean row, which "
        "no softmax sees."
    )


def normal_anisotropy(numbers: dict) -> str:
    """What anisotropies are normal."""
    rows = _others(numbers, "anisotropy").dropna(subset="width")
    narrow, wide = (rows.anisotropy[mask] for mask in (rows.width < 1000, rows.width >= 1000))
    return (
        f"Normal: in the paper's Figure 2 models of fewer than 1,000 dimensions lie between {narrow.min():.2f} and "
        f"{narrow.max():.2f}, wider ones between {wide.min():.2f} and {wide.max():.2f}."
    )


def normal_error(numbers: dict) -> str:
    """Where the W-error of each head falls below what the paper sees as the break."""
    level, rows = numbers["normal"]["w_error"], frame(numbers, "rank_costs")
    said = []
    for model, part in rows.groupby("model", sort=False):
        under = part["rank"][part.w_error <= level].min()
        said.append(f"that of {model} falls below it at rank {under}")
    return f"Normal: the paper sees performance break where the W-error passes {level:g}; {'; '.join(said[-6:])}."


def normal_logits(numbers: dict) -> str:
    """What is normal of logits."""
    return (
        "Normal: in exact arithmetic δ is 0 and the mean logit is free; a mean logit of a few units costs nothing in "
        f"either format, and a cost of rounding below {numbers['normal']['harm']:g} nats does not show. "
        "A random direction keeps √(d/V) of its length."
    )
