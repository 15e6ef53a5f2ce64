"""What the explorer shows: this book's runs, public runs and the paper's curves in the same columns and names.

Each frame has the columns model, source (this book, public runs, paper), step and value, and what else its chart turns
on: view, rank or layer. Values keep four digits, since all of them travel with the page.
"""

import pandas as pd

from lib.data import paper, public
from lib.measure import spectra as measures
from lib.study import spectra

OURS, PUBLIC, PAPER = "this book", "public runs", "paper"


def name(model: str) -> str:
    """A model as this page calls it: Pythia-14M for 14M and pythia-14m, others as they are."""
    size = model.removeprefix("pythia-").removesuffix("-deduped")
    return f"Pythia-{size.upper()}" if size[0].isdigit() else model


def loss(along: pd.DataFrame) -> pd.DataFrame:
    """Losses along training: held-out ones of our runs (model, step, loss), medians over seeds of the public runs, and
    the paper's Figure 1.
    """
    logged = public.losses().groupby(["model", "step"], sort=False, as_index=False).loss.median()
    return _together({OURS: along, PUBLIC: logged, PAPER: paper.figure("1a")}, "loss")


def anisotropy(layers: pd.DataFrame) -> pd.DataFrame:
    """Anisotropy by layer along training: layer 0 is the embedding, the last of ours the state after the final norm.

    layers: `anisotropy.layers` of our runs, with model and step. The column stage says in words what a layer is. The
    paper's values are of a last layer: the steps at which its Figure 3 passes 0.5 and 0.9, and the final ones of
    Figure 2.
    """
    words = layers.layer.astype(str).mask(layers.layer == 0, "0, embeddings")
    ours = layers.assign(layer=layers.layer + layers.final_norm, stage=words.mask(layers.final_norm, "after the norm"))
    return _together({OURS: ours, PAPER: _last_layers()}, "anisotropy", "layer", "stage")


def spectrum(heads: pd.DataFrame, ranks: int) -> pd.DataFrame:
    """Singular values over the largest at about so many ranks; the paper's second value over the first (Figure 4)."""
    largest = heads.groupby(["model", "step", "view"]).sigma.transform("max")
    ours = spectra.thin(heads.assign(ratio=heads.sigma / largest), ranks)
    theirs = paper.figure("4").assign(view=spectra.RAW)
    theirs = pd.concat([theirs.assign(rank=1, ratio=1.0), theirs.assign(rank=2)])
    return _together({OURS: ours, PAPER: theirs}, "ratio", "view", "rank")


def entropy(heads: pd.DataFrame) -> pd.DataFrame:
    """Singular entropy along training, of squared values; the paper's is its Figure 5."""
    ours = spectra.entropies(heads[["model", "step", "view", "rank", "sigma"]]).query("power == 2")
    return _together({OURS: ours, PAPER: paper.figure("5").assign(view=spectra.RAW)}, "entropy", "view")


def w_error(heads: pd.DataFrame, ranks: int) -> pd.DataFrame:
    """W-error of the head at about so many ranks below its width; the paper's is its Figure 8, of a finished model."""
    by_spectrum = heads.groupby(["model", "step", "view"], sort=False).sigma
    errors = by_spectrum.transform(lambda sigma: measures.w_error(sigma.to_numpy())[1:])
    ours = spectra.thin(heads.assign(w_error=errors), ranks)
    theirs = paper.figure("8").assign(view=spectra.RAW, step=_last_step())
    return _together({OURS: ours[ours["rank"] < ours.width], PAPER: theirs}, "w_error", "view", "rank")


def first(*frames: pd.DataFrame) -> dict:
    """What a page on such frames opens with: the narrowest of our models at its last step, its last layer, raw.

    The first frame is that of `anisotropy`. Also names all models, ours first, Pythia by size.
    """
    layers, every = frames[0], pd.concat(frames)
    ours = list(every.model[every.source == OURS].unique())
    others = sorted(set(every.model) - set(ours), key=_size)
    chosen = layers[(layers.source == OURS) & (layers.model == ours[0])]
    last = {"model": ours[0], "step": int(chosen.step.max()), "layer": int(chosen.layer.max()), "view": spectra.RAW}
    return {"models": (*ours, *others)} | last


def _size(model):
    """Parameters in the name of a Pythia."""
    number = model.removeprefix("Pythia-")
    return float(number[:-1]) * {"M": 1, "B": 1000}[number[-1]]


def _last_layers():
    figure = paper.figure("3")
    passed = figure.melt("model", ["step_above_0.5", "step_above_0.9"], "level", "step").dropna()
    passed["anisotropy"] = passed.level.str.removeprefix("step_above_").astype(float)
    final = paper.figure("2").query("family == 'Pythia'").assign(step=_last_step())
    values = pd.concat([passed, final], ignore_index=True)
    depths = public.recipes().set_index("model").layers
    depth = values.model.map(lambda model: depths[f"pythia-{model.lower()}"])
    return values.assign(layer=depth, stage=depth.astype(str) + ", the last")


def _last_step():
    """The step at which Pythia ends."""
    return paper.figure("5").step.max()


def _together(frames, value, *more):
    """One frame of several sources."""
    long = pd.concat([frame.assign(source=source) for source, frame in frames.items()], ignore_index=True)
    short = long[value].map(lambda one: float(f"{one:.4g}"))
    long = long.assign(model=long.model.map(name), value=short).astype({"step": int})
    return long[["source", "model", "step", *more, "value"]]
