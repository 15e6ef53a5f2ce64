"""What public numbers say of width (chapter 7b): Pythia's losses, what goes with width there, the price of a rank."""

import numpy as np
import pandas as pd
from scipy import stats

from lib.data import checkpoints, paper, public
from lib.measure import learning
from lib.measure.budgets import Shape
from lib.run import kept
from lib.run.parameters import load
from lib.study import updates

PLAN = kept.FOLDER / "heads_updates.yml"  # heads of low rank, of chapter 5.1


def pythia(vocabulary: int, context: int) -> pd.DataFrame:
    """Pythia's sizes, narrowest first: what they are and how low they came.

    Columns model, width, layers, lr, parameters, share (of embedding and head among them), runs, loss (median over runs
    of the last training loss, nats; NaN without public runs), low, high (over runs), paper (the loss of Figure 1).
    vocabulary: rows of their heads, padded.
    """
    ends = public.losses().sort_values("step").groupby(["model", "seed"]).loss.last().groupby("model")
    known = ends.agg(["size", "median", "min", "max"]).set_axis(["runs", "loss", "low", "high"], axis=1)
    figure = paper.figure("1b").query("checkpoint == 'final'")
    theirs = figure.assign(model="pythia-" + figure.model.str.lower()).set_index("model").loss.rename("paper")
    recipes = public.recipes().query("suite == 'v1'")
    frame = recipes[["model", "width", "layers", "lr"]].drop_duplicates()
    frame = frame[~frame.model.str.contains("deduped")].sort_values(["width", "layers"])
    shapes = [Shape(row.width, row.layers, vocabulary, context, tied=False) for row in frame.itertuples()]
    told = {"parameters": [one.parameters for one in shapes], "share": [one.share for one in shapes]}
    return frame.assign(**told).join(known, on="model").join(theirs, on="model").reset_index(drop=True)


def confounded(frame: pd.DataFrame) -> pd.DataFrame:
    """How width goes with all else over the sizes of `pythia`: with, rank correlation."""
    names = {"layers": "depth", "lr": "learning rate", "parameters": "parameters", "share": "share of the head"}
    rows = [{"with": word, "rank correlation": _rank(frame.width, frame[name])} for name, word in names.items()]
    return pd.DataFrame(rows)


def nearest(frame: pd.DataFrame) -> dict:
    """The two models of different width nearest in parameters: narrow, wide, factor (of the parameters)."""
    pairs = [
        (max(one.parameters, other.parameters) / min(one.parameters, other.parameters), one.model, other.model)
        for one in frame.itertuples()
        for other in frame.itertuples()
        if one.width < other.width
    ]
    factor, narrow, wide = min(pairs)
    return {"narrow": narrow, "wide": wide, "factor": factor}


def shallow(frame: pd.DataFrame, model: str = "pythia-1b") -> pd.DataFrame:
    """Whether a model that is wide for its depth does better than its neighbours in size let expect.

    Columns measured (words), beside (the neighbours), excess (nats over the straight line between their losses in the
    logarithm of parameters). frame: `pythia`. Losses are those of the paper's figure, and last LAMBADA perplexities.
    """
    ordered = frame.sort_values("parameters").set_index("model")
    place = ordered.index.get_loc(model)
    three = ordered.iloc[place - 1 : place + 2]
    ends = public.perplexities().sort_values("step").groupby("model").perplexity.last().map(np.log)
    series = {"loss, the paper's figure": three.paper}
    for suffix in ("-deduped", "-v0", "-deduped-v0"):  # those that hold all three
        series[f"LAMBADA, {suffix[1:]}"] = ends[three.index + suffix].set_axis(three.index)
    sizes, rows = np.log(three.parameters), []
    for words, losses in series.items():
        expected = np.interp(sizes[model], sizes.drop(model), losses.drop(model))
        beside = " and ".join(three.index.drop(model))
        rows.append({"measured": words, "beside": beside, "excess": losses[model] - expected})
    return pd.DataFrame(rows)


def released(address: str) -> dict:
    """Width, vocabulary, parameters of a finished model, and its head's share of them (once, where it is tied)."""
    model, _ = checkpoints.load(address)
    rows, width = model.get_output_embeddings().weight.shape
    ends = {weight.data_ptr(): weight.numel() for weight in _ends(model)}
    count = sum(parameter.numel() for parameter in model.parameters())
    about = {"width": width, "vocabulary": rows, "parameters": count, "share": sum(ends.values()) / count}
    return about | {"tied": len(ends) == 1}


def factorised() -> pd.DataFrame:
    """What an output of rank r saves and costs: arm, rank, saved, cost, low, high (nats).

    saved: share of the weights, and so of the operations, of an untied output. The costs are those of chapter 5.1 at
    its longest runs: a head of that rank less one of full rank that was trained alike, on a frozen body.
    """
    plan = load(PLAN.read_text())
    runs = kept.run(updates.trained, plan["grid"], **plan["fixed"])
    rows, width = checkpoints.head(plan["fixed"]["address"]).shape
    costs = learning.matched(runs, width).query("updates == updates.max()")
    saved = [1 - rank * (rows + width) / (rows * width) for rank in costs["rank"]]
    return costs.assign(saved=saved).drop(columns="updates").sort_values(["arm", "rank"], ignore_index=True)


def _ends(model):
    return model.get_input_embeddings().weight, model.get_output_embeddings().weight


def _rank(one, other):
    return float(np.round(stats.spearmanr(one, other).statistic, 3))
