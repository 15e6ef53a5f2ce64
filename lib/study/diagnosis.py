"""Everything that the laboratory says of models by address, as numbers for JSON; the tasks are in `any_model`."""

import fnmatch
import json
import os
from collections.abc import Callable

import pandas as pd

from lib.data import checkpoints, paper
from lib.run import machine, records, sweep
from lib.study import anisotropy as states
from lib.study import any_model, public, saturation, spectra, training

SCHEMA, VERSION = "any-model", 1
SIZES = {"tokens": 6144, "held_out": 4096, "steps": 16, "longest": 256, "layer_tokens": 2048}
SUITE = [f"suite:nano-{width}-seed0" for width in (8, 16, 32, 64, 128)]
SUITE_TOKENS, SUITE_LONGEST = 2048, 127  # in all, and of a document
SHOWN = 60  # singular values that are kept of a spectrum
MIN_RISE = 0.005  # of a loss along training
ANISOTROPIC = 0.5  # mean cosine above which the paper's small models stand apart from its large ones
HARM = 0.001  # nats; what rounding may cost before it counts
SLOW = 6e-9  # seconds that a loss takes for each logit, where `machine` says pace 1


def diagnose(
    addresses: list[str],
    corpus: str = "wiki-en",
    sizes: dict | None = None,
    suite: list[str] | None = None,
    tell: Callable[[str], None] | None = None,
) -> dict:
    """Everything of each model and of all together: schema, version, corpus, sizes, normal, models, series, standing.

    addresses: as `checkpoints` takes them; NAME@last, NAME@all and NAME@step* stand for checkpoints of a run. sizes:
    what differs from SIZES. suite: runs of the book's suite to stand beside (default: those that are trained). tell: is
    told what begins, and first how long all of it takes. Raises ValueError for a bad address or corpus, and
    `sweep.SweepError` where a task fails.
    """
    sizes, tell = SIZES | (sizes or {}), tell or (lambda _: None)
    if unknown := sorted(sizes.keys() - SIZES.keys()):
        raise ValueError(f"there is no size called {', '.join(unknown)}: expected {', '.join(SIZES)}")
    named = list(dict.fromkeys(one for address in addresses for one in expand(address)))  # each once
    if not named:
        raise ValueError("there is no model to diagnose: pass at least one address")
    shapes = pd.DataFrame([{"address": one} | records.recall(any_model.shape, address=one) for one in named])
    tell(
        f"about {seconds(shapes, sizes):.0f} s for {len(named)} model{'s' if len(named) > 1 else ''}, less what is kept"
    )
    models = [_model(shape, corpus, sizes, tell) for shape in _rows(shapes)]
    tell("where the models stand")
    numbers = {"schema": SCHEMA, "version": VERSION, "corpus": corpus, "sizes": sizes}
    numbers |= {"normal": {"anisotropic": ANISOTROPIC, "harm": HARM, "w_error": paper.constant("w_error_threshold")}}
    return numbers | {"models": models, "series": _series(models), "standing": _standing(models, corpus, suite)}


def expand(address: str) -> list[str]:
    """The addresses that one stands for: NAME@last, NAME@all and patterns such as NAME@step1* name kept revisions."""
    name, _, revision = address.partition("@")
    parsed = checkpoints.parse(name)
    if revision not in ("last", "all") and not set(revision) & set("*?["):
        return [str(checkpoints.parse(address))]
    kept = checkpoints.revisions(name)
    chosen = kept[-1:] if revision == "last" else fnmatch.filter(kept, "*" if revision == "all" else revision)
    if not chosen:
        raise ValueError(f"{parsed} has no revision {revision!r}: it has {', '.join(kept) or 'none'}")
    return [f"{name}@{one}" for one in chosen]


def seconds(shapes: pd.DataFrame, sizes: dict) -> float:
    """What the tasks of models of these shapes take on this machine with nothing kept, from operation counts."""
    measured = machine.rates()
    rate = min(by["float32"] for by in measured["products"].values()) * (os.cpu_count() or 1)
    head = shapes.vocabulary * shapes.width
    passes = sizes["tokens"] + sizes["held_out"] + sizes["layer_tokens"]
    products = (shapes.parameters - head) * passes + head * (sizes["tokens"] + 4 * sizes["held_out"])
    wide = 20 * head * shapes.width  # Gram matrices, in float64
    losses = SLOW * sizes["held_out"] * shapes.vocabulary * (sizes["steps"] + 12) * measured["pace"]
    return float(((2 * products + wide) / rate / 1e9 + losses).sum())


def _model(shape, corpus, sizes, tell):
    """All that is said of one model."""
    address = shape["address"]
    how = {"longest": sizes["longest"]}
    both = {"tokens": sizes["tokens"], "held_out": sizes["held_out"]} | how

    def ask(what, function, **settings):
        tell(f"{address}: {what}")
        return sweep.run(function, [{"address": address}], **settings).drop(columns="address")

    spectrum = ask("the spectrum of its head", spectra.spectrum, corpora=[corpus])
    entropies = spectra.entropies(spectrum)
    entropies = entropies[entropies.power == 2].drop(columns=["power", "width"])
    layers = ask("anisotropy by layer", any_model.layers, corpus=corpus, tokens=sizes["layer_tokens"], **how)
    costs = ask("cost of lower ranks", any_model.rank_costs, corpus=corpus, steps=sizes["steps"], **both)
    logits = ask("health of its logits", any_model.logits, corpus=corpus, **both)
    return {
        "address": address,
        "shape": {name: value for name, value in shape.items() if name != "address"},
        "spectrum": _rows(spectra.thin(spectrum, SHOWN)[["view", "rank", "sigma"]]),
        "entropies": _rows(entropies),
        "layers": _rows(layers),
        "rank_costs": _rows(costs),
        "smallest": [any_model.smallest(costs, within) for within in any_model.WITHIN],
        "logits": _rows(logits)[0],
    }


def _series(models):
    """What the detector says of the loss along each run of which there are three checkpoints or more."""
    rows = []
    for model in models:
        run, _, revision = model["address"].partition("@")
        if revision.startswith("step") and revision[4:].isdecimal():
            rows.append({"run": run, "step": int(revision[4:]), "loss": model["logits"]["loss"]})
    frame = pd.DataFrame(rows, columns=["run", "step", "loss"]).drop_duplicates(["run", "step"])
    frame = frame.sort_values(["run", "step"])
    long = frame[frame.groupby("run").step.transform("size") >= 3]
    return _rows(saturation.detect(long, ["run"], MIN_RISE)) if len(long) else []


def _standing(models, corpus, suite):
    """Width, last-layer anisotropy and singular entropy of the paper's models, the suite's, and those asked for."""
    figure = states.families(paper.figure("2"))
    rows = [
        {"source": "the paper", "model": f"{row.family} {row.model}", "width": row.width, "anisotropy": row.anisotropy}
        for row in figure.itertuples()
    ]
    last = paper.figure("5").sort_values("step").groupby("model").tail(1)
    rows += [
        {"source": "the paper", "model": f"Pythia {row.model}", "width": row.width, "entropy": row.entropy}
        for row in last.itertuples()
    ]
    for run in _trained() if suite is None else suite:
        address = expand(f"{run}@last")[0]
        spectrum = sweep.run(spectra.spectrum, [{"address": address}], corpora=[corpus])
        raw = spectra.entropies(spectrum).query("power == 2 and view == @spectra.RAW").iloc[0]
        tokens = any_model.available(corpus, checkpoints.tokenizer(address), "validation", SUITE_TOKENS, SUITE_LONGEST)
        how = {"corpus": corpus, "tokens": tokens, "longest": SUITE_LONGEST}
        seen = sweep.run(states.checkpoint, [{"address": address}], **how).iloc[0]
        about = {"source": "this book's suite", "model": training.name(run), "width": raw.width}
        rows.append(about | {"anisotropy": seen.anisotropy, "entropy": raw.entropy})
    for model in models:
        about = {"source": "asked for", "model": model["address"], "width": model["shape"]["width"]}
        values = {"anisotropy": model["layers"][-1]["anisotropy"], "entropy": model["entropies"][0]["entropy"]}
        rows.append(about | values)
    frame = pd.DataFrame(rows).groupby(["source", "model", "width"], sort=False).first().reset_index()
    runs = public.runs()
    together = runs.groupby(["width", "model"]).saturated.agg(["size", "sum"]).reset_index()
    about = together.rename(columns={"size": "runs", "sum": "saturated"}).assign(source="public runs")
    return _rows(pd.concat([frame, about], ignore_index=True))


def _trained():
    """Those of the suite's runs that are on this machine."""
    return [run for run in SUITE if checkpoints.available(run)]


def _rows(frame):
    """The rows of a frame as JSON holds them, with None for what is not known."""
    return json.loads(frame.to_json(orient="records", double_precision=15))
