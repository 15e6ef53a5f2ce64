"""Counts equal a dictionary's, spectra equal a dense one, and the null models bound what they should."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from lib.measure import ngram_controls, ngram_growth, ngram_spectrum, ngrams, smoothing
from lib.study import ngrams as tasks


@pytest.fixture(scope="module")
def text():
    """Zipf text with repeated phrases, so that contexts recur: (30000,) ids below 300."""
    rng = np.random.default_rng(0)
    words = np.minimum(rng.zipf(1.3, 30000), 300) - 1
    for start in rng.integers(0, 29000, 1500):
        source = rng.integers(0, 29000)
        words[start : start + 8] = words[source : source + 8]
    return words


def dictionary(counts):
    table = counts.following.tocoo()
    return {
        (*counts.contexts[row].tolist(), int(token)): int(number)
        for row, token, number in zip(table.row, table.col, table.data, strict=True)
    }


def by_tuples(tokens, order):
    tokens = np.asarray(tokens).tolist()
    return Counter(zip(*[tokens[place:] for place in range(order)], strict=False))


def dense(operator):
    return operator @ np.eye(operator.shape[1])


def curve(matrix, ranks):
    """W-error from numpy's singular values."""
    squares = np.linalg.svd(matrix, compute_uv=False) ** 2
    return np.sqrt([squares[rank:].sum() / squares.sum() for rank in ranks])


@pytest.mark.parametrize("order", range(2, 7))
def test_counts_are_those_of_a_dictionary(text, order):
    counts = ngrams.count(text, order, 300)
    assert dictionary(counts) == by_tuples(text, order)
    assert (np.lexsort(counts.contexts.T[::-1]) == np.arange(len(counts.contexts))).all()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=6, max_size=60), st.integers(2, 6), st.sampled_from([4, 2**18]))
def test_counts_of_any_short_text(tokens, order, vocab_size):
    spread = np.array(tokens) * (vocab_size // 4)
    assert dictionary(ngrams.count(spread, order, vocab_size)) == by_tuples(spread, order)


def test_a_hand_made_corpus():
    tokens = [0, 1, 2, 0, 1, 2, 0, 1, 0]  # "0 1" is followed by 2, 2, 0
    matrix = ngrams.context_matrix(tokens, 3, 3).toarray()
    assert matrix == pytest.approx(np.array([[1 / 3, 0, 2 / 3], [1, 0, 0], [0, 1, 0]]))
    assert ngrams.context_matrix(tokens, 3, 3, min_count=3).toarray() == pytest.approx(np.array([[1 / 3, 0, 2 / 3]]))


@pytest.mark.parametrize("size", [1, 700, 29_997, 10**9])
def test_shards_and_merge_equal_one_pass(text, size):
    tokens = text[:2000] if size == 1 else text
    whole = ngrams.count(tokens, 4, 300)
    parts = [ngrams.count(shard, 4, 300) for shard in ngrams.shards(tokens, 4, size)]
    merged = ngrams.merge(parts)
    assert (merged.contexts == whole.contexts).all()
    assert (merged.following != whole.following).nnz == 0
    sampled = ngrams.sample(ngrams.merge([ngrams.sample(part, 50, seed=3) for part in parts]), 50, seed=3)
    assert dictionary(sampled) == dictionary(ngrams.sample(whole, 50, seed=3))


def test_a_text_longer_than_a_shard_is_cut(text, monkeypatch):
    whole = ngrams.count(text, 5, 300)
    matrix = ngrams.context_matrix(text, 5, 300)
    monkeypatch.setattr(ngrams, "LARGEST_SHARD", 4096)
    assert dictionary(ngrams.count(text, 5, 300)) == dictionary(whole)
    assert (ngrams.context_matrix(text, 5, 300) != matrix).nnz == 0


def test_samples_are_nested_uniform_and_seeded(text):
    counts = ngrams.count(text, 5, 300)
    small, large = ngrams.sample(counts, 500), ngrams.sample(counts, 1000)
    assert len(small.contexts) == 500
    assert dictionary(small).items() <= dictionary(large).items() <= dictionary(counts).items()
    assert dictionary(small) != dictionary(ngrams.sample(counts, 500, seed=1))
    keys = counts.contexts @ 300 ** np.arange(4)
    hits = sum(np.isin(keys, ngrams.sample(counts, 2000, seed).contexts @ 300 ** np.arange(4)) for seed in range(100))
    assert hits.var() < 1.3 * hits.mean()  # binomial: not the same contexts at every seed


def test_weighted_rows_average_over_the_text(text):
    counts = ngrams.count(text, 3, 300)
    plain, weighted = ngrams.matrix(counts), ngrams.matrix(counts, weighted=True)
    share = (plain.multiply(plain)).sum(axis=1) @ counts.occurrences / counts.occurrences.sum()
    assert (weighted.data**2).sum() / weighted.shape[0] == pytest.approx(share)
    assert plain.sum(axis=1) == pytest.approx(1)


@pytest.mark.parametrize("order", [2, 3, 5])
def test_w_error_equals_a_dense_svd(text, order):
    matrix = ngrams.context_matrix(text, order, 300, contexts=3000)
    ranks = np.array([0, 1, 5, 50, 150, 299, 300])
    assert ngrams.w_error(matrix, ranks) == pytest.approx(curve(matrix.toarray(), ranks), abs=1e-7)
    spectrum = ngram_spectrum.spectra(matrix)[0]
    assert (spectrum.numbers * spectrum.squares).sum() == pytest.approx((matrix.data**2).sum())
    assert spectrum.w_error(spectrum.dimension(0.1)) == pytest.approx(0.1)


def test_the_estimate_is_within_its_own_error(text):
    matrix = ngrams.context_matrix(text, 4, 300, contexts=3000)
    ranks = np.array([1, 10, 50, 100, 150])
    found = np.array([one.w_error(ranks) for one in ngram_spectrum.spectra(matrix, largest=0, probes=16)])
    stated = found.std(axis=0, ddof=1) / 4
    assert (np.abs(found.mean(axis=0) - ngrams.w_error(matrix, ranks)) < 6 * stated + 1e-3).all()
    assert stated.max() < 3e-3


def test_the_null_is_exact_for_one_hot_rows_and_else_an_upper_bound(text):
    ranks = np.arange(0, 301, 10)
    onehot = sparse.csr_array((np.ones(5000), (np.arange(5000), text[:5000])), shape=(5000, 300))
    assert ngram_spectrum.null(onehot).w_error(ranks) == pytest.approx(ngrams.w_error(onehot, ranks), abs=1e-12)
    for order in (2, 3, 5):
        matrix = ngrams.context_matrix(text, order, 300)
        gap = ngram_spectrum.null(matrix).w_error(ranks) - ngrams.w_error(matrix, ranks)
        assert gap.min() > -1e-9
        assert gap.max() > 1e-6


def test_shuffling_keeps_both_margins(text):
    counts = ngrams.count(text, 4, 300)
    dealt = ngram_controls.shuffled(counts)
    assert (dealt.occurrences == counts.occurrences).all()
    assert (dealt.following.sum(axis=0) == counts.following.sum(axis=0)).all()
    assert (dealt.following != counts.following).nnz > 0


def test_a_language_of_known_rank_is_found_only_with_many_draws():
    def dimension(draws):
        return ngram_spectrum.spectra(ngram_controls.known_rank(2000, 1000, 8, draws))[0].dimension(0.1)

    assert dimension(1) > 100
    assert dimension(2000) <= 8.5


def test_smoothed_matrices_are_what_they_say():
    counts = ngrams.count([0, 1, 2, 0, 1, 3, 0, 1, 2, 4, 0], 3, 8)  # 5, 6, 7 are never seen
    plain = counts.following.toarray().astype(float)
    smoothed = (plain + 0.5) / (plain.sum(1, keepdims=True) + 4)
    logs, seen = np.log(smoothed), (plain > 0) * 1.0
    for operator, matrix in (
        (smoothing.additive(counts, 0.5), smoothed),
        (smoothing.log_probabilities(counts, 0.5), logs - logs.mean(1, keepdims=True)),
        (smoothing.support(counts), seen - seen.mean(1, keepdims=True)),
    ):
        ours = np.linalg.svd(dense(operator), compute_uv=False)
        assert ours == pytest.approx(np.linalg.svd(matrix, compute_uv=False)[: len(ours)], abs=1e-12)


def test_kneser_ney_is_a_distribution_and_backs_off():
    tokens = [0, 1, 2, 0, 1, 3, 0, 1, 2, 4, 2, 0, 3, 0]
    counts = ngrams.count(tokens, 3, 8)
    operator = smoothing.kneser_ney(counts)
    *_, unseen = equal = np.append(np.ones(5), np.sqrt(3))
    assert operator @ equal == pytest.approx(1)
    assert dense(smoothing.kneser_ney(counts, [1, 2])) == pytest.approx(dense(operator)[[1, 2]])
    row = dense(operator)[(counts.contexts == [0, 1]).all(axis=1)][0]
    assert row[2] > row[3] > row[4] > row[5] / unseen > 0  # seen twice, once, in other contexts, nowhere


def test_kneser_ney_by_hand():
    """Bigrams of 0 1 0 2 0 1: discount n1 / (n1 + 2 n2), continuation counts below, uniform last."""
    counts = ngrams.count([0, 1, 0, 2, 0, 1], 2, 3)  # 01 twice, 02, 10, 20 once: D = 3/5
    below = np.array([2, 1, 1]) - 2 / 4  # different left neighbours of 0, 1, 2: once, once, twice, so D = 2/4
    lower = below / 4 + (2 / 4 * 3 / 4) / 3
    expected = np.array([0, 2 - 3 / 5, 1 - 3 / 5]) / 3 + (3 / 5 * 2 / 3) * lower
    assert dense(smoothing.kneser_ney(counts))[0, :3] == pytest.approx(expected)


def test_the_squared_norm_is_read_off_a_curve():
    """As many contexts as there are, plus a tail of tokens that were one of several next ones."""
    squares = np.concatenate([2000 / np.arange(1, 1001), np.repeat([2.0, 1.0], [1000, 4000]), np.full(900, 0.1)])
    ranks = np.arange(0, len(squares), 250)
    left = np.sqrt((squares.sum() - np.append(0, np.cumsum(squares))[ranks]) / squares.sum())
    assert ngram_growth.squared_norm(ranks, left) == pytest.approx(squares.sum(), rel=1e-6)
    with pytest.raises(ValueError, match="never levels off"):
        ngram_growth.squared_norm([0, 1, 2], [1.0, 0.7, 0.5])


def test_squares_are_those_of_the_singular_values():
    """The norm is read off the last stretch, of tokens that follow one context each."""
    squared = np.repeat([3.0, 1.6, 1.0, 0.0], 2000)
    ranks = np.arange(0, 8001, 500)
    left = 1 - np.cumsum(np.insert(squared, 0, 0.0)) / squared.sum()
    found = ngram_growth.squares(ranks, np.sqrt(np.clip(left[ranks], 0, None)), error=0.005)
    assert found.norm.to_numpy() == pytest.approx(squared.sum())
    assert found.square.to_numpy() == pytest.approx(np.repeat([3, 1.6, 1, 0], 4), abs=1e-6)
    assert list(found["rank"][:2]) == [250, 750]
    given = ngram_growth.squares(ranks, np.sqrt(np.clip(left[ranks], 0, None)), norm=2 * squared.sum())
    assert given.square.to_numpy() == pytest.approx(2 * found.square.to_numpy())
    assert given.doubt[0] == 0 < found.doubt[0] < 1


def test_growth_recovers_its_own_constants():
    law = ngram_growth.Growth(limit=20_000, half=9e4, exponent=0.8, scatter=0)
    sizes = np.geomspace(1e3, 1e6, 8)
    found = ngram_growth.growth(sizes, law.predict(sizes))
    assert [found.limit, found.half, found.exponent] == pytest.approx([20_000, 9e4, 0.8], rel=1e-4)
    assert law.predict(9e4) == pytest.approx(10_000)
    with pytest.raises(ValueError, match="measure more sizes"):
        ngram_growth.growth(sizes[:3], law.predict(sizes[:3]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 2, 3], 1, 10), "expected 2 to 6"),
        (([1, 2, 3], 7, 10), "expected 2 to 6"),
        (([], 2, 10), "pass a longer text"),
        (([1, 2, 3, 4], 5, 10), "pass a longer text"),
        (([0.5, 1.5], 2, 10), "integer ids"),
        (([1, 2, 10], 2, 10), "expected 0 to 9"),
        (([1, -2, 3], 2, 10), "expected 0 to 9"),
        (([1, 2, 3], 2, 2**18 + 1), "2\\^18"),
        (([1, 2, 3], 2, 10, None, 2), "lower min_count"),
        (([1, 2, 3], 2, 10, 0), "at least 1, or None"),
    ],
)
def test_bad_input_gets_one_clear_sentence(arguments, message):
    with pytest.raises(ValueError, match=message):
        ngrams.context_matrix(*arguments)


@pytest.mark.parametrize("ranks", [[-1], [4]])
def test_ranks_outside_the_matrix_are_refused(ranks):
    with pytest.raises(ValueError, match="expected 0 to 3"):
        ngrams.w_error(sparse.csr_array(np.eye(3)), ranks)


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_a_matrix_without_a_norm_is_refused(value):
    with pytest.raises(ValueError, match="expected finite numbers"):
        ngrams.w_error(sparse.csr_array(np.full((2, 2), value)), [1])


def test_other_bad_input_is_refused(text):
    counts = ngrams.count(text, 3, 300)
    with pytest.raises(ValueError, match="one order"):
        ngrams.merge([counts, ngrams.count(text, 4, 300)])
    with pytest.raises(ValueError, match="raise alpha"):
        smoothing.log_probabilities(counts, 0)
    with pytest.raises(ValueError, match="at least 1 draw"):
        ngram_controls.known_rank(10, 5, 6, 1)
    with pytest.raises(ValueError, match="raise size"):
        next(ngrams.shards(text, 3, 0))


def test_counts_of_a_corpus_over_shards_are_those_of_one_pass(text, monkeypatch):
    monkeypatch.setattr(tasks, "_tokenizer", lambda corpus, tokenizer: (None, 300))
    monkeypatch.setattr(tasks.corpora, "tokens", lambda *_: text)
    whole = ngrams.count(text, 4, 300)
    assert dictionary(tasks.count("any", "any", 4, shard=5000)) == dictionary(whole)
    assert dictionary(tasks.count("any", "any", 4, 200, shard=5000)) == dictionary(ngrams.sample(whole, 200))
