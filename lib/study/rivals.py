"""Rivals in the float32 suite (chapter 8): spectra that grow uneven again, gradients handed down, loss by frequency."""

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from lib.data import checkpoints
from lib.measure import spectra
from lib.measure.saturation import saturation
from lib.study import heads
from lib.study.rounding import gradient
from lib.train import loop, suite

ROWS = 256  # positions whose logits are held at once
LEAST = 0.05  # nats of singular entropy
SCATTERS = 4  # of one checkpoint


def spectra_along(address: str, profile: str) -> pd.DataFrame:
    """Singular entropy (nats) of a suite run's head at its checkpoints: run, step, view, entropy, loss.

    The views are the head, less its mean row, and less the log frequency in the training text too. loss: validation.
    """
    name = address.removeprefix("suite:")
    logged = suite.losses(profile)
    losses = logged[(logged.run == name) & (logged.split == "validation")].set_index("step").loss
    frequency, rows = None, []
    for step in _steps(address):
        head = checkpoints.head(f"{address}@step{step}")
        if frequency is None:
            stream = np.load(suite.text(profile, len(head)) / "train.npy", mmap_mode="r")
            frequency = loop.log_unigram(stream, len(head)).numpy()
        centred = spectra.centre(head)
        rest = spectra.deflate(centred, frequency - frequency.mean())
        for view, seen in (("raw", head), ("centred", centred), ("frequency out too", rest)):
            entropy = spectra.singular_entropy(spectra.singular_values(seen))
            rows.append({"run": name, "step": step, "view": view, "entropy": entropy, "loss": losses.loc[step]})
    return pd.DataFrame(rows)


def again(frame: pd.DataFrame, start: int) -> pd.DataFrame:
    """Whether each run's entropy rises again, by view: run, view, turn (step of the minimum), rise, again, harm.

    Counted from a step on; the rise to the last step must exceed LEAST and SCATTERS times the scatter of a checkpoint,
    which is read off second differences. harm: the loss at the end less that at the turn, nats. frame: `spectra_along`.
    """
    rows = []
    for (run, view), part in frame[frame.step >= start].groupby(["run", "view"], sort=False):
        entropy, losses = part.entropy.to_numpy(), part.loss.to_numpy()
        scatter = 1.4826 * np.median(np.abs(np.diff(entropy, 2))) / 6**0.5
        turn = entropy.argmin()
        rise = entropy[-1] - entropy[turn]
        found = {"turn": int(part.step.iloc[turn]), "rise": rise, "again": rise > max(LEAST, SCATTERS * scatter)}
        rows.append({"run": run, "view": view} | found | {"harm": losses[-1] - losses[turn]})
    return pd.DataFrame(rows)


def passed(address: str, corpus: str, tokens: int, context: int = 128) -> dict[str, float]:
    """How much of the gradient of the logits a head hands down (Murugan 2026).

    share: of the squared length of p - y that lies in the span of the head's columns, over positions; null: d / V, that
    of a direction drawn at random. share_centred: the same for the head less its mean row, which the exact gradient is
    blind to.
    """
    material = heads.prepared(address, corpus, context, tokens, context, "cpu", "float32")
    states, labels = material.validation
    weight = material.head.out.double()
    bases = [torch.linalg.qr(matrix)[0] for matrix in (weight, weight - weight.mean(0))]
    whole, within = 0.0, np.zeros(2)
    for part, own in zip(states.split(ROWS), labels.split(ROWS), strict=True):
        slope = gradient(part @ material.head.out.T, own).double()
        whole += float(slope.square().sum())
        within += [float((slope @ basis).square().sum()) for basis in bases]
    null = weight.shape[1] / len(weight)
    return {"share": within[0] / whole, "share_centred": within[1] / whole, "null": null}


def bands_along(address: str, profile: str, tokens: int, bands: int, start: int, context: int = 128) -> pd.DataFrame:
    """Loss by frequency of the target at a suite run's checkpoints from a step on: run, step, band, loss.

    Bands hold equal shares of the tokens of the validation text, the most frequent first; band 0 is all of them.
    """
    rows, place = [], None
    for step in (step for step in _steps(address) if step >= start):
        model, _ = checkpoints.load(f"{address}@step{step}")
        if place is None:
            ids, place = _validation(profile, model.config.vocab_size, tokens, bands, context)
        with torch.no_grad():
            logits = torch.cat([model(part).logits.flatten(0, 1) for part in ids[:-1].view(-1, context).split(16)])
        losses = F.cross_entropy(logits, ids[1:], reduction="none").double().numpy()
        means = [losses.mean(), *(np.bincount(place, losses) / np.bincount(place))]
        rows += [{"step": step, "band": band, "loss": loss} for band, loss in enumerate(means)]
    return pd.DataFrame(rows).assign(run=address.removeprefix("suite:"))


def band_verdicts(frame: pd.DataFrame, min_rise: float) -> pd.DataFrame:
    """What the detector says of each band of each run: run, band, kind, saturated, effect, reach (half its interval).

    frame: `bands_along`.
    """
    rows = []
    for (run, band), part in frame.groupby(["run", "band"], sort=False):
        found = saturation(part.step.to_numpy(), part.loss.to_numpy(), min_rise)
        reach = (found.interval[1] - found.interval[0]) / 2
        told = {"kind": found.kind, "saturated": found.saturated, "effect": found.effect, "reach": reach}
        rows.append({"run": run, "band": band} | told)
    return pd.DataFrame(rows)


def _steps(address):
    return [int(name.removeprefix("step")) for name in checkpoints.revisions(address)]


def _validation(profile, vocabulary, tokens, bands, context):
    """Token ids, and the band of each but the first."""
    folder = suite.text(profile, vocabulary)
    ids = torch.from_numpy(np.load(folder / "validation.npy")[: tokens // context * context + 1].astype(np.int64))
    counts = np.bincount(np.load(folder / "train.npy", mmap_mode="r"), minlength=vocabulary)
    place = np.empty(len(ids) - 1, int)
    for band, part in enumerate(np.array_split(np.argsort(-counts[ids[1:].numpy()], kind="stable"), bands)):
        place[part] = band
    return ids, place
