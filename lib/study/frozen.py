"""Heads of every kind on the frozen states of a language model (chapter 7), all or few of their directions.

The commonest tokens are a class each and all others one, so that every head can be had. A body of another width does
not exist here; the first principal directions of the states stand for one.
"""

import itertools
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
import pandas as pd
import torch

from lib.data import checkpoints, corpora
from lib.run import kept
from lib.study.heads import prepared
from lib.study.remedies import SEEDS, TRIED
from lib.train import frozen, heads, joint, remedies

DIRECTIONS = [[64, 96, 128, 192]]  # that heads read, and linear heads beside them
UPDATES = 375
STOP = 4  # windows at the end of the kept states, on which learning rates are judged


def trained(
    address: str,
    corpus: str,
    head: str,
    width: int,
    seed: int,
    updates: int,
    rates: list[float],
    vocabulary: int = 4096,
    tokens: int = 50176,
    validation: int = 8192,
    batch: int = 128,
    search: int = 48,
    context: int = 512,
    dtype: str = "float32",
) -> pd.DataFrame:
    """A head of a kind on so many principal directions of a model's states, whitened: `lib.train.frozen.measured`.

    With steps and step (the updates), rate (of ``rates`` the one of least loss after ``search`` updates, whatever the
    seed), tried (those losses), seconds (of processor time for an update) and parameters (numbers that the head
    stores). Counts are of the text after the ``tokens`` that heads are trained on. Raises ValueError where there is
    none, or where the updates want more than is kept.
    """
    text = _text(address, corpus, vocabulary, tokens, validation, context, dtype)
    own, judged, held_out = text.narrowed(width)
    tried = _tried(text, head, width, tuple(rates), search, batch)
    rate = rates[int(np.argmin(tried))]
    made = text.head(head, width, seed)
    seconds = frozen.train(made, own, updates, batch, rate, seed)
    row = {"step": updates, "steps": updates, "rate": rate, "tried": tried, "seconds": seconds}
    return pd.DataFrame([row | {"parameters": made.size()} | frozen.measured(made, held_out)])


def untouched(
    address: str,
    corpus: str,
    vocabulary: int = 4096,
    tokens: int = 50176,
    validation: int = 8192,
    context: int = 512,
    dtype: str = "float32",
) -> pd.DataFrame:
    """The model's own head on the same classes and tokens: loss (nats), covered (share of tokens with classes of their
    own), all (directions that it reads).
    """
    text = _text(address, corpus, vocabulary, tokens, validation, context, dtype)
    states, labels = prepared(address, corpus, tokens, validation, context, "cpu", dtype).validation
    weight, rest, total = text.weight, text.classes == vocabulary - 1, 0.0
    for part, label in zip(states.split(heads.CHUNK), labels.split(heads.CHUNK), strict=True):
        logits = part.float() @ weight.T
        whole = logits.logsumexp(1)
        others = logits[:, rest].logsumexp(1)
        mine = torch.where(rest[label], others, logits.gather(1, label[:, None])[:, 0])
        total += float((whole - mine).sum(dtype=torch.float64))
    covered = float((~rest[labels]).double().mean())
    return pd.DataFrame([{"loss": total / len(labels), "covered": covered, "all": weight.shape[1]}])


def grid(
    seeds: Iterable[int] = SEEDS, directions: Sequence[Sequence[int]] = DIRECTIONS, updates: int = UPDATES
) -> list[dict]:
    """Points of all runs, for each list of directions seed by seed: every head at its first, linear ones at all."""
    points = []
    for (base, *wider), seed in itertools.product(directions, seeds):
        pairs = [(kind, base) for kind in TRIED] + [("linear", width) for width in wider]
        points += [{"head": kind, "width": width, "seed": seed, "updates": updates} for kind, width in pairs]
    return points


def runs(grid: list[dict], directions: Sequence[Sequence[int]], **setting) -> pd.DataFrame:
    """The runs of a grid, kept ones where they answer; base: the directions that the heads of a list read."""
    base = {width: first for first, *wider in directions for width in (first, *wider)}
    frame = kept.run(trained, grid, **setting)
    return frame.assign(base=frame.width.map(base))


class _Text:
    """States of a model, the classes that follow and precede them, and counts of other text."""

    def __init__(self, address, corpus, vocabulary, tokens, validation, context, dtype):
        material = prepared(address, corpus, tokens, validation, context, "cpu", dtype)
        _, tokenizer = checkpoints.load(address)
        stream = torch.from_numpy(np.array(corpora.tokens(corpus, tokenizer, "train"), dtype=np.int64))
        counted = stream[len(material.train[0]) + 1 :]
        if len(counted) < 2:
            raise ValueError(f"{corpus} has {len(stream):,} tokens and {tokens:,} are trained on: lower tokens.")
        self.weight, self.vocabulary = material.head.out.float(), vocabulary
        self.classes = frozen.classes(counted, len(self.weight), vocabulary)
        self.parts = [self._part(*part) for part in (material.train, material.validation)]
        self.last, self.counted = STOP * material.context, self.classes[counted]

    def _part(self, states, labels):
        """Windows follow one another, so that what a state was made of is the label before it; the first has none."""
        follows = self.classes[labels]
        return frozen.Part(states[1:].float(), follows[1:], follows[:-1])

    @lru_cache(maxsize=1)  # noqa: B019
    def narrowed(self, width):
        """What heads are trained on, what rates are judged on, and what is held out."""
        onto = frozen.directions(self.parts[0].states, width)
        train, held_out = (part._replace(states=part.states @ onto) for part in self.parts)
        own, judged = (slice(-self.last), slice(-self.last, None))
        return *(frozen.Part(*(rows[cut] for rows in train)) for cut in (own, judged)), held_out

    def head(self, kind, width, seed):
        """A fresh head, with the counts that its kind takes."""
        tokens = self.counted.numpy()
        more = joint.known(kind, tokens[None], tokens, self.vocabulary)
        return remedies.head(kind, self.vocabulary, width, seed, **more)


# One after another, the runs of a chapter ask for the same.
_text = lru_cache(maxsize=1)(_Text)


@lru_cache(maxsize=256)
def _tried(text, kind, width, rates, search, batch):
    """The loss after a short run at each rate; the first seed decides for all."""
    own, judged, _ = text.narrowed(width)
    losses = []
    for rate in rates:
        head = text.head(kind, width, 0)
        frozen.train(head, own, search, batch, rate, 0)
        losses.append(float(head.loss(*judged, penal=False).detach()))
    return losses
