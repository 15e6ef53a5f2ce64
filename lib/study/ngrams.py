"""What chapter 5.1 computes of n-grams: W-error curves of corpora, of what they could be instead, and of controls."""

from functools import partial

import numpy as np
import pandas as pd
from dask import delayed

from lib.data import checkpoints, corpora
from lib.measure import ngram_controls, ngram_spectrum, ngrams, smoothing
from lib.train.tokenizer import train_tokenizer

KINDS = ("counts", "weighted", "shuffled", "additive", "Kneser-Ney", "log-probabilities", "support")
FAN = 4  # counts of shards that are merged at a time
LEARNT = 4_000_000  # characters that a small vocabulary is learnt from


def curves(
    corpus, tokenizer, contexts, ranks, kind="counts", order=5, min_count=1, largest=0, device="cpu", seed=0
) -> pd.DataFrame:
    """W-error of one corpus at each rank, and what goes with it.

    tokenizer: an address, or `bpe:4096` for a vocabulary of that size learnt from the corpus; contexts: how many, None
    for all; kind: one of KINDS; largest: tokens in a component that is solved exactly. Columns rank, w_error, error
    (standard, 0 where exact), null (token counts alone), contexts and tokens (found), one_hot (share of contexts),
    energy (squared norm), dimension and null_dimension (rank at W-error 0.1); null and energy of sparse matrices only.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}: expected one of {', '.join(KINDS)}")
    whole = min_count > 1 or kind == "Kneser-Ney"  # which need all contexts before some are drawn
    counts = count(corpus, tokenizer, order, None if whole else contexts, seed)
    if min_count > 1:
        counts = counts[counts.occurrences >= min_count]
    chosen = ngrams.sample(counts, contexts, seed)
    if kind in ("counts", "weighted", "shuffled"):
        dealt = ngram_controls.shuffled(chosen, seed) if kind == "shuffled" else chosen
        matrix = ngrams.matrix(dealt, weighted=kind == "weighted")
        return _frame(matrix, ngram_spectrum.spectra(matrix, largest, device, seed), ranks)
    alpha = 1 / counts.following.shape[1]  # one more occurrence in each context, spread over the vocabulary
    if kind == "Kneser-Ney":
        operator = smoothing.kneser_ney(counts, ngrams.positions(counts, contexts, seed))
    else:
        operator = {
            "additive": partial(smoothing.additive, alpha=alpha),
            "support": smoothing.support,
            "log-probabilities": partial(smoothing.log_probabilities, alpha=alpha),
        }[kind](chosen)
    found = ngram_spectrum.estimate(ngram_spectrum.gram_operator(operator), steps=400, seed=seed)
    return _frame(chosen.following, found, ranks).drop(columns=["null", "null_dimension", "energy"])


def count(corpus, tokenizer, order, contexts=None, seed=0, shard=ngrams.LARGEST_SHARD) -> ngrams.Counts:
    """Counts of a corpus's n-grams, or of a sample of its contexts, over Dask's workers if longer than a shard.

    A sample is drawn from each shard before they meet, so that memory doesn't grow with the corpus.
    """
    name, vocabulary = _tokenizer(corpus, tokenizer)
    tokens = corpora.tokens(corpus, name, None)
    pieces = ngrams.shards(tokens, order, max(shard - order + 1, 1))
    parts = [delayed(_counted)(piece, order, vocabulary, contexts, seed) for piece in pieces]
    while len(parts) > 1:
        parts = [delayed(_merged)(parts[i : i + FAN], contexts, seed) for i in range(0, len(parts), FAN)]
    return parts[0].compute()


def _counted(tokens, order, vocabulary, contexts, seed):
    return ngrams.sample(ngrams.count(tokens, order, vocabulary), contexts, seed)


def _merged(parts, contexts, seed):
    return ngrams.sample(ngrams.merge(parts), contexts, seed)


def growth(corpus, tokenizer, smallest, sizes, order=5, seed=0) -> pd.DataFrame:
    """Rank at W-error 0.1 of nested samples of contexts, so many evenly spaced in log from `smallest` to all.

    Columns contexts, tokens (found), data, null: dimensions of the matrix and of its token counts.
    """
    counts = count(corpus, tokenizer, order)
    rows = []
    for contexts in np.geomspace(smallest, len(counts.contexts), sizes).round().astype(int):
        matrix = ngrams.matrix(counts, int(contexts), seed=seed)
        data = np.mean([one.dimension() for one in ngram_spectrum.spectra(matrix, 0, seed=seed)])
        rows.append((contexts, len(np.unique(matrix.indices)), data, ngram_spectrum.null(matrix).dimension()))
    return pd.DataFrame(rows, columns=["contexts", "tokens", "data", "null"])


def control(truth, draws, contexts, vocabulary, ranks, seed=0) -> pd.DataFrame:
    """As `curves`, for a language whose true matrix has rank `truth`, from so many draws in each context."""
    matrix = ngram_controls.known_rank(contexts, vocabulary, truth, draws, seed)
    return _frame(matrix, ngram_spectrum.spectra(matrix, seed=seed), ranks)


def _tokenizer(corpus, tokenizer):
    kind, _, size = tokenizer.partition(":")
    if kind != "bpe":
        found = checkpoints.tokenizer(tokenizer)
        return found, len(found)
    texts, left = [], LEARNT
    for text in corpora.documents(corpus)["text"]:
        texts.append(text[:left])
        left -= len(text)
        if left <= 0:
            break
    return train_tokenizer(texts, int(size)), int(size)


def _frame(matrix, found, ranks):
    """Curves of a matrix and its spectra."""
    each = np.array([one.w_error(ranks) for one in found])
    null = ngram_spectrum.null(matrix)
    return pd.DataFrame(
        {
            "rank": ranks,
            "w_error": each.mean(axis=0),
            "error": each.std(axis=0, ddof=1) / np.sqrt(len(each)) if len(each) > 1 else 0.0,
            "null": null.w_error(ranks),
            "contexts": matrix.shape[0],
            "tokens": len(np.unique(matrix.indices)),
            "one_hot": float((np.diff(matrix.indptr) == 1).mean()),
            "energy": float((matrix.data**2).sum()),
            "dimension": float(np.mean([one.dimension() for one in found])),
            "null_dimension": null.dimension(),
        }
    )
