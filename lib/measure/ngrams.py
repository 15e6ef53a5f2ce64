"""Which token follows which context, counted exactly: token ids in, a sparse matrix of contexts by next tokens out.

An n-gram is named by its rank among the distinct ones, and a longer one by the names of two parts (Karp, Miller and
Rosenberg 1972): a context of four tokens is two bigrams. Names and token fit in 64 bits, so counting is a sort of
integers and contexts come out in lexicographic order. Counts of shards of a text add up to those of the text.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from lib.measure.ngram_spectrum import w_error

__all__ = ["Counts", "context_matrix", "count", "matrix", "merge", "positions", "sample", "shards", "w_error"]

ORDERS = range(2, 7)
LARGEST_VOCABULARY = 2**18
LARGEST_SHARD = 2**23  # tokens: two names of parts of a context and a token then fit in 64 bits


@dataclass(frozen=True)
class Counts:
    """How often each token follows each context."""

    contexts: np.ndarray  # (C, order - 1) uint32, distinct, in lexicographic order
    following: sparse.csr_array  # (C, V) int64

    @property
    def occurrences(self) -> np.ndarray:
        """How often each context occurs before some token, (C,)."""
        return _occurrences(self.following)

    def __getitem__(self, rows) -> "Counts":
        """The counts of some of the contexts."""
        return Counts(self.contexts[rows], self.following[rows])


def context_matrix(
    tokens,
    order: int,
    vocab_size: int,
    contexts: int | None = None,
    min_count: int = 1,
    weighted: bool = False,
    seed: int = 0,
) -> sparse.csr_array:
    """Empirical distributions of the token after each distinct context of order - 1 tokens, (C, V) in float64.

    Rows sum to 1 and stand in the lexicographic order of their contexts. contexts: how many distinct ones, drawn
    uniformly by seed (None: all; fewer if the text has fewer); min_count: how often a context must occur; weighted: a
    row times the square root of its context's frequency over the mean one, so that squared errors average over the text
    and not over the distinct contexts. Raises ValueError for an order outside 2 to 6, a text shorter than one n-gram,
    ids outside the vocabulary, or counts that leave no context. Source: paper, section 5.1.
    """
    if contexts is None and len(tokens) <= LARGEST_SHARD:  # nothing depends on which context a row belongs to
        return _distributions(_table(_checked(tokens, order, vocab_size), order, vocab_size)[0], min_count, weighted)
    return matrix(count(tokens, order, vocab_size), contexts, min_count, weighted, seed)


def count(tokens, order: int, vocab_size: int) -> Counts:
    """Count every n-gram of a text, (N,) ids of any integer type, in one pass over each 2^23 tokens.

    Takes about 30 bytes a token beside the result. Raises as context_matrix.
    """
    tokens = _checked(tokens, order, vocab_size)
    if len(tokens) > LARGEST_SHARD:
        return merge([count(shard, order, vocab_size) for shard in shards(tokens, order, LARGEST_SHARD - order + 1)])
    table, codes, where = _table(tokens, order, vocab_size)
    half, shift = order // 2, _bits(len(where))
    left, right = where[codes >> shift], where[codes & _mask(shift)]
    columns = [tokens[left + place] for place in range(half)] + [tokens[right + place] for place in range(half)]
    return Counts(np.stack(columns[: order - 1 - half] + columns[half:]).T, table.astype(np.int64))


def shards(tokens, order: int, size: int) -> Iterator[np.ndarray]:
    """Cut a text into pieces whose n-grams are together exactly its own: neighbours share order - 1 tokens."""
    if size < 1:
        raise ValueError(f"shards of {size} n-grams can't be cut: expected at least 1; raise size")
    for start in range(0, max(len(tokens) - order + 1, 1), size):
        yield tokens[start : start + size + order - 1]


def merge(parts: Sequence[Counts]) -> Counts:
    """Add up the counts of shards of a text; with one part, add up the rows of equal contexts."""
    if len({(part.contexts.shape[1], part.following.shape[1]) for part in parts}) != 1:
        raise ValueError("the parts can't be merged: expected at least one, all of one order and one vocabulary")
    contexts = np.concatenate([part.contexts for part in parts])
    ranks, first = np.zeros(len(contexts), np.uint32), np.zeros(1, np.uint32)
    for column in contexts.T:
        ranks, first = _name(ranks, column)
    table = sparse.vstack([part.following for part in parts], format="coo")
    shape = (len(first), table.shape[1])
    return Counts(contexts[first], sparse.csr_array((table.data, (ranks[table.row], table.col)), shape=shape))


def sample(counts: Counts, contexts: int | None, seed: int = 0) -> Counts:
    """Draw so many distinct contexts uniformly, or keep all if there are no more.

    The draw keeps the smallest hashes of the contexts themselves, so it doesn't depend on the rest of the text: samples
    of shards, merged and sampled again, are the sample of the whole, and a smaller sample is part of a larger one.
    """
    return counts[positions(counts, contexts, seed)]


def positions(counts: Counts, contexts: int | None, seed: int = 0) -> np.ndarray | slice:
    """Rows of counts that `sample` keeps."""
    if contexts is not None and contexts < 1:
        raise ValueError(f"{contexts} contexts can't be drawn: expected at least 1, or None for all")
    if contexts is None or contexts >= len(counts.contexts):
        return slice(None)
    return np.sort(np.argpartition(_hash(counts.contexts, seed), contexts - 1)[:contexts])


def matrix(
    counts: Counts, contexts: int | None = None, min_count: int = 1, weighted: bool = False, seed: int = 0
) -> sparse.csr_array:
    """Rows of empirical next-token distributions from counts; parameters and errors as in context_matrix."""
    if min_count > 1:
        counts = counts[counts.occurrences >= min_count]
    return _distributions(sample(counts, contexts, seed).following, min_count, weighted)


def _table(tokens, order, vocab_size):
    """Counts of the n-grams of one shard, (C, V) int32, codes of its contexts, (C,), and a place for each name in them.

    A code is the names of both halves, which may overlap. Arrays go once they have served: they are the memory used.
    """
    length, half, grams = order - 1, order // 2, len(tokens) - order + 1
    names, where = _names(tokens, half, vocab_size)
    shift, width = _bits(len(where)), _bits(vocab_size)
    keys = names[:grams].astype(np.uint64)
    keys <<= shift
    keys |= names[length - half :][:grams]
    del names
    keys <<= width
    keys |= tokens[length:]
    keys.sort()
    starts = np.flatnonzero(_changes(keys))
    keys = keys[starts]
    starts = np.append(starts, grams).astype(np.int32)
    occurrences = np.diff(starts)
    del starts
    following = (keys & _mask(width)).astype(np.int32)
    keys >>= width
    rows = np.flatnonzero(_changes(keys))
    codes = keys[rows]
    pointers = np.append(rows, len(keys)).astype(np.int32)
    return sparse.csr_array((occurrences, following, pointers), shape=(len(codes), vocab_size)), codes, where


def _distributions(table, min_count, weighted):
    """Rows of counts as distributions."""
    occurrences = _occurrences(table)
    if min_count > 1:
        table, occurrences = table[occurrences >= min_count], occurrences[occurrences >= min_count]
    if not len(occurrences):
        raise ValueError(f"no context occurs {min_count} times: expected at least one that does; lower min_count")
    scale = np.sqrt(1 / occurrences / occurrences.mean()) if weighted else 1 / occurrences
    values = np.repeat(scale, np.diff(table.indptr))
    values *= table.data
    return sparse.csr_array((values, table.indices, table.indptr), shape=table.shape)


def _occurrences(table):
    """Sums of rows, none of which is empty."""
    return np.add.reduceat(table.data, table.indptr[:-1]) if table.nnz else np.zeros(0, np.int64)


def _names(tokens, length, vocab_size):
    """Name of the n-gram that starts at each place, increasing in lexicographic order, and a place for each name."""
    names, where = tokens, np.zeros(vocab_size, np.uint32)
    if length == 1:
        where[tokens] = np.arange(len(tokens), dtype=np.uint32)
    for place in range(1, length):
        names, where = _name(names[:-1], tokens[place:])
    return names, where


def _name(left, right):
    """Ranks of pairs among the distinct pairs, in ascending order, and the place where each rank is first."""
    shift, place = _bits(int(right.max()) + 1), _bits(len(left))
    keys = left.astype(np.uint64)
    keys <<= shift
    keys |= right
    if _bits(int(left.max()) + 1) + shift + place <= 64:  # places fit beside the keys: sorting values is 7 times faster
        keys <<= place
        keys |= np.arange(len(keys), dtype=np.uint64)
        keys.sort()
        where = (keys & _mask(place)).astype(np.uint32)
        keys >>= place
    else:
        where = np.argsort(keys, kind="stable")
        keys = keys[where]
    new = _changes(keys)
    ranks = np.empty(len(keys), np.uint32)
    ranks[where] = np.cumsum(new, dtype=np.uint32) - 1
    return ranks, where[new]


def _changes(ordered):
    """Whether each entry differs from the one before it."""
    new = np.ones(len(ordered), bool)
    np.not_equal(ordered[1:], ordered[:-1], out=new[1:])
    return new


def _bits(size):
    """Bits that number so many things, as the 64-bit type that keeps shifts unsigned."""
    return np.uint64(max(int(size) - 1, 1).bit_length())


def _mask(bits):
    """The lowest bits set."""
    return (np.uint64(1) << bits) - np.uint64(1)


def _hash(contexts, seed):
    """A hash of each row, (C,) uint64: SplitMix64 (Steele, Lea and Flood 2014) chained over the columns."""
    state = np.full(len(contexts), np.random.SeedSequence(seed).generate_state(1, np.uint64)[0])
    for column in contexts.T:
        state += column.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state ^= state >> np.uint64(31)
    return state


def _checked(tokens, order, vocab_size):
    """Token ids as a uint32 array."""
    tokens = np.asarray(tokens)
    if order not in ORDERS:
        raise ValueError(f"order {order} can't be counted: expected 2 to 6; pass the n of the n-grams")
    if not 1 <= vocab_size <= LARGEST_VOCABULARY:
        raise ValueError(f"a vocabulary of {vocab_size} can't be counted: expected 1 to 2^18 entries; pass vocab_size")
    if tokens.ndim != 1 or tokens.dtype.kind not in "iu" or len(tokens) < order:
        raise ValueError(
            f"tokens of shape {tokens.shape} and type {tokens.dtype} hold no {order}-gram: expected at least {order} "
            "integer ids in one dimension; pass a longer text"
        )
    if tokens.min() < 0 or tokens.max() >= vocab_size:
        raise ValueError(
            f"ids from {tokens.min()} to {tokens.max()} don't fit a vocabulary of {vocab_size}: expected 0 to "
            f"{vocab_size - 1}; pass the tokenizer's own size"
        )
    return tokens.astype(np.uint32, copy=False)
