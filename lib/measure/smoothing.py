"""Other matrices made of the same counts: smoothed, in logarithms, or only which token was seen at all.

None of them is sparse, but each is a sparse matrix plus one of low rank, so it is given as an operator of products.
Tokens never seen share one value in each row: their n equal columns become one, times sqrt(n), with the same singular
values.
"""

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from lib.measure.ngrams import Counts, merge


def additive(counts: Counts, alpha: float) -> LinearOperator:
    """Rows (n_cv + alpha) / (n_c + alpha V), (C, seen tokens + 1). Raises ValueError unless alpha > 0."""
    seen, equal = _seen(counts)
    scale = 1 / (counts.occurrences + _positive(alpha) * counts.following.shape[1])
    return _plus(sparse.diags_array(scale) @ seen, alpha * scale, equal)


def log_probabilities(counts: Counts, alpha: float) -> LinearOperator:
    """Logarithms of the rows of `additive`, minus their mean over the vocabulary, which no softmax can see."""
    seen, equal = _seen(counts)
    return _centred(seen._with_data(np.log1p(seen.data / _positive(alpha))), equal)


def support(counts: Counts) -> LinearOperator:
    """1 where a token follows a context and 0 elsewhere, minus the row's mean. Source: Zhao et al. 2024."""
    seen, equal = _seen(counts)
    return _centred(seen._with_data(np.ones(seen.nnz)), equal)


def kneser_ney(counts: Counts, rows=slice(None)) -> LinearOperator:
    """Interpolated Kneser-Ney distributions for some of the contexts of a text, (C, seen tokens + 1).

    Every order keeps what it saw, less a discount D = n1 / (n1 + 2 n2), and leaves the rest to the next lower order,
    which counts not occurrences but the different tokens before; last comes the uniform distribution. counts: of all
    contexts of the text. Source: Kneser and Ney 1995; Ney, Essen and Kneser 1994 for D.
    """
    seen, equal = _seen(counts)
    kept, left = _discounted(counts.following, seen)
    if counts.contexts.shape[1] == 0:
        return _plus(kept, left / counts.following.shape[1], equal)
    ones = counts.following._with_data(np.ones_like(counts.following.data))
    shorter = merge([Counts(counts.contexts[:, 1:], ones)])
    lower = kneser_ney(shorter)
    backoff = sparse.diags_array(left[rows]) @ _selector(counts.contexts[rows, 1:], shorter.contexts)
    return aslinearoperator(kept[rows]) + aslinearoperator(sparse.csr_array(backoff)) @ lower


def _discounted(table, seen):
    """Rows less their discount as shares of the row, and the share that is left over, (C,)."""
    once, twice = (table.data == 1).sum(), (table.data == 2).sum()
    discount = once / max(once + 2 * twice, 1)
    totals = table.sum(axis=1)
    kept = sparse.csr_array(sparse.diags_array(1 / totals) @ seen._with_data(seen.data - discount))
    return kept, discount * np.diff(table.indptr) / totals


def _selector(rows, among):
    """A matrix of zeros and ones that picks, for each row, the equal one among others."""
    everything = np.concatenate([among, rows])
    _, place = np.unique(everything, axis=0, return_inverse=True)
    where = place[len(among) :]
    return sparse.csr_array((np.ones(len(rows)), (np.arange(len(rows)), where)), shape=(len(rows), len(among)))


def _seen(counts):
    """Columns that are not zero and an empty one, (C, seen + 1), and the root of how many tokens each stands for."""
    table = counts.following
    tokens, columns = np.unique(table.indices, return_inverse=True)
    shape = (table.shape[0], len(tokens) + 1)
    equal = np.append(np.ones(len(tokens)), np.sqrt(table.shape[1] - len(tokens)))
    return sparse.csr_array((table.data.astype(np.float64), columns, table.indptr), shape=shape), equal


def _centred(matrix, equal):
    return _plus(matrix, -matrix.sum(axis=1) / (equal**2).sum(), equal)


def _plus(matrix, left, right):
    """matrix + left right^T, never formed."""
    return aslinearoperator(sparse.csr_array(matrix)) + aslinearoperator(left[:, None]) @ aslinearoperator(right[None])


def _positive(alpha):
    if not alpha > 0:
        raise ValueError(f"additive smoothing by {alpha} has no logarithm: expected more than 0; raise alpha")
    return alpha
