"""Languages whose dimension is known, to see what the W-error of their counts makes of it."""

import numpy as np
from scipy import sparse

from lib.measure.ngrams import Counts

SPREAD = 2.0  # standard deviation of the log probability of a token among the R distributions


def shuffled(counts: Counts, seed: int = 0) -> Counts:
    """Deal the next tokens out again over the contexts at random: each context and each token occurs as often."""
    table = counts.following.tocoo()
    rows = np.repeat(table.row, table.data)
    columns = np.random.default_rng(seed).permutation(np.repeat(table.col, table.data))
    return Counts(counts.contexts, sparse.csr_array((np.ones_like(rows), (rows, columns)), shape=table.shape))


def known_rank(contexts: int, vocab_size: int, rank: int, draws: int, seed: int = 0) -> sparse.csr_array:
    """Empirical distributions, (C, V), of so many draws in each context of a language of exactly that rank.

    Token v has a probability of order 1/v (Zipf), in R versions that differ by log-normal factors. A context mixes them
    in Dirichlet proportions of total 1, so that one or a few versions prevail: the true matrix has rank R, no less.
    Raises ValueError for a rank outside 1 to V or no draws.
    """
    if not 1 <= rank <= vocab_size or draws < 1:
        raise ValueError(
            f"a language of rank {rank} over {vocab_size} tokens with {draws} draws can't be made: "
            f"expected a rank of 1 to {vocab_size} and at least 1 draw; change them"
        )
    rng = np.random.default_rng(seed)
    chosen = _components(contexts, rank, draws, rng)
    tokens = np.empty(len(chosen), np.int32)
    order = np.argsort(chosen, kind="stable")
    for places in np.split(order, np.searchsorted(chosen[order], np.arange(1, rank))):
        cumulated = np.cumsum(np.exp(SPREAD * rng.standard_normal(vocab_size)) / np.arange(1, vocab_size + 1))
        tokens[places] = np.searchsorted(cumulated, rng.random(len(places)) * cumulated[-1], side="right")
    rows = np.repeat(np.arange(contexts), draws)
    return sparse.csr_array((np.full(len(rows), 1 / draws), (rows, tokens)), shape=(contexts, vocab_size))


def _components(contexts, rank, draws, rng):
    """Which of the R distributions each draw comes from, (C * draws,): Polya's urn, which needs no proportions."""
    chosen = np.empty((contexts, draws), np.int64)
    for draw in range(draws):
        new = rng.random(contexts) < 1 / (1 + draw)
        earlier = chosen[np.arange(contexts), rng.integers(0, max(draw, 1), contexts)]
        chosen[:, draw] = np.where(new, rng.integers(0, rank, contexts), earlier)
    return chosen.ravel()
