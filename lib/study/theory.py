"""What chapter 5.2 computes: the lemmas and the theorem on drawn problems, the bounds on a real head."""

from itertools import product

import numpy as np
import pandas as pd
import torch
from scipy import stats
from threadpoolctl import threadpool_limits

from lib.measure import bounds
from lib.measure.softmax_problem import best_head, draw, gradient, loss, losses, optimum
from lib.study.heads import Material

SIZES = dict(vocabulary=12, width=12, contexts=200)
one_thread = threadpool_limits.wrap(limits=1)  # on 12 x 12 matrices a second one only waits


@one_thread
def perturbations(temperatures, skews, ranks, epsilons, seed=0, l2=0.05) -> pd.DataFrame:
    """Loss changes of W* + eps M, |M| = 1 in Frobenius norm, M from W* towards its truncation to each rank (Lemma 5.1).

    Columns temperature, skew, rank, epsilon, quantity, change (nats, absolute); quantities: the largest single context,
    the mean over contexts at W*, its bound for one context, and the mean at the optimum with weight decay `l2`.
    """
    rows = []
    for temperature, skew in product(temperatures, skews):
        task = draw(**SIZES, temperature=temperature, skew=skew, seed=seed)
        star, decayed = optimum(task), optimum(task, l2)
        left, right = bounds.factors(star, task.second_moment)
        for rank in ranks:
            step = left[:, :rank] @ right[:rank] - star
            step /= np.linalg.norm(step)
            single = int(np.abs(np.einsum("nv,nv->n", task.states @ step.T, _surplus(task, star))).argmax())
            for epsilon in epsilons:
                each = losses(task, star + epsilon * step) - losses(task, star)
                values = {
                    "one context": each[single],
                    "mean over contexts": task.weights @ each,
                    "mean, W* with weight decay": loss(task, decayed + epsilon * step) - loss(task, decayed),
                    "Lemma 5.1, with its constant": 2**0.5 * epsilon * np.linalg.norm(task.states[single]),
                }
                rows += [(temperature, skew, rank, epsilon, name, abs(value)) for name, value in values.items()]
    return pd.DataFrame(rows, columns=["temperature", "skew", "rank", "epsilon", "quantity", "change"])


def _surplus(task, head):
    return torch.as_tensor(task.states @ head.T).softmax(-1).numpy() - task.labels


@one_thread
def searches(skews, ranks, starts, seed=0) -> pd.DataFrame:
    """Lemma 5.2: the closest rank-r matrix by formula, and the closest that alternating least squares finds.

    Columns skew, rank, formula, search (smallest Frobenius distance over `starts` random starts).
    """
    rows, random = [], np.random.default_rng(seed)
    for skew in skews:
        star = optimum(draw(**SIZES, skew=skew, seed=seed))
        tails = np.sqrt(bounds.tail(star))
        for rank in ranks:
            found = min(_alternate(star, random.standard_normal((rank, star.shape[1]))) for _ in range(starts))
            rows.append((skew, rank, tails[rank], found))
    return pd.DataFrame(rows, columns=["skew", "rank", "formula", "search"])


def _alternate(matrix, right, steps=2000):
    for _ in range(steps):
        left = matrix @ np.linalg.pinv(right)
        right = np.linalg.pinv(left) @ matrix
    return float(np.linalg.norm(left @ right - matrix))


@one_thread
def gaps(temperatures, skews, ranks, starts, seed=0) -> pd.DataFrame:
    """Theorem 5.3: the loss gap of the best rank-r head found, of the truncated W*, and every bound on it.

    One row for each problem and rank. Columns temperature, skew, rank, gap, truncated, paper, squared, confident,
    whitened_tail (T_r), plain_tail (tail of sigma^2 of W*), agreement (share of searches within 1e-6 nats), gradient.
    """
    rows = []
    for temperature, skew in product(temperatures, skews):
        task = draw(**SIZES, temperature=temperature, skew=skew, seed=seed)
        star = optimum(task)
        least, bound = loss(task, star), bounds.theorem(star, task.states, task.weights)
        plain = bounds.tail(star)
        for rank in ranks:
            found = best_head(task, rank, star, starts, seed)
            rows.append(
                {
                    "temperature": temperature,
                    "skew": skew,
                    "rank": rank,
                    "gap": found.loss - least,
                    "truncated": found.attempts.loss[0] - least,
                    **{name: v[rank] for name, v in bound.items()},
                    "whitened_tail": 4 * bound["squared"][rank],
                    "plain_tail": plain[rank],
                    "agreement": found.agreement,
                    "gradient": np.linalg.norm(gradient(task, star)),
                }
            )
    return pd.DataFrame(rows)


def real_head(
    address, corpus, contexts, ranks, context=512, held_out=8192, every=16, block=16, device="cpu", dtype="float32"
) -> pd.DataFrame:
    """KL divergence from a model's own softmax when its head is cut to rank r, every bound and prediction, real states.

    `contexts` tokens of the training part of `corpus` decide what to cut; the divergence is taken on every `every`-th
    position of `held_out` tokens of its validation part, which are other documents, and of as many of the first, spread
    over them. Both are read in windows of `context` tokens, the states that chapter 5.1 keeps among them.

    A row for each sample ("held out", "in sample"), window, truncation ("whitened", "by frequency", "downhill") and
    rank, in nats per token: loss (of the true next token, full head), rise (of that loss), linear (its first-order
    part), the means of `bounds.divergences` over the window, and what follows from the contexts that decide alone:
    plain_tail (of the head as it is, centred), quarter_tail (T_r / 4), uniform_tail (T_r / 2 V), unigram_tail (what
    `unigram` is there), below_tail and above_tail (half the two tails of the sandwich), free (what bounds the rise of
    "downhill", whose divergences are not taken); width and vocabulary of the head.
    Raises ValueError where not all of `contexts` and `held_out` can be read, or ranks are not between 1 and the width.
    """
    material = Material(address, corpus, contexts, held_out, context, device, dtype)
    for count, (states, _) in ((contexts, material.train), (held_out, material.validation)):
        if len(states) != count:
            raise ValueError(
                f"of {count} tokens {len(states)} fill windows of {material.context}: pass a multiple of "
                f"{material.context} that the text of {corpus} holds."
            )
    head = material.head.out
    width = head.shape[1]
    if not 1 <= min(ranks) <= max(ranks) <= width < contexts:
        raise ValueError(
            f"ranks {ranks} must be in 1..{width}, and {width} below the {contexts} contexts: change them."
        )
    cuts, tails, frequency = _cuts(head, *material.train)
    length, count = material.context, held_out // material.context
    spread = np.linspace(0, contexts // length - 1, min(count, contexts // length)).astype(int)
    samples = {"held out": (material.validation, range(count)), "in sample": (material.train, spread)}
    frames = []
    for sample, ((states, labels), windows) in samples.items():
        for window in windows:
            here = slice(window * length + (every - 1) // 2, (window + 1) * length, every)
            measured = _measure(head, states[here], labels[here], cuts, ranks, frequency, block)
            frames.append(measured.assign(sample=sample, window=window))
    frame = pd.concat(frames, ignore_index=True)
    for name, by_cut in tails.items():
        frame[name] = [
            by_cut[cut][rank] if cut in by_cut else np.nan
            for cut, rank in zip(frame.truncation, frame["rank"], strict=True)
        ]
    return frame.assign(linear=frame.rise - frame.divergence, width=width, vocabulary=len(head))


def _cuts(head, states, labels):
    """The truncated heads, float32, what their spectra alone say of them, and the mean probability of each token."""
    rows = states.double().cpu().numpy() / np.sqrt(len(states))
    frequency = sum((part.to(head) @ head.T).double().softmax(-1).sum(0) for part in states.split(128))
    frequency = (frequency / frequency.sum()).cpu().numpy()
    gradient, least, most = _gradient(head, states, labels, frequency)
    weight = head.double().cpu().numpy()
    found = {
        "whitened": bounds.factors(weight, rows=rows),
        "by frequency": bounds.factors(weight, None, frequency, rows),
    }
    *downhill, free = bounds.without_optimum(weight, gradient, rows)
    squares = {cut: bounds.tails(left - left.mean(0)) for cut, (left, _) in found.items()}
    under = {cut: bounds.tails(left - frequency @ left, frequency) / 2 for cut, (left, _) in found.items()}
    sides = [bounds.tail(weight, None, frequency, np.sqrt(side)[:, None] * rows) / 2 for side in (least, most)]
    plain = bounds.tail(weight)
    tails = {
        "plain_tail": dict.fromkeys(found, plain),
        "quarter_tail": {cut: tail / 4 for cut, tail in squares.items()},
        "uniform_tail": {cut: tail / (2 * len(head)) for cut, tail in squares.items()},
        "unigram_tail": under,
        "below_tail": dict.fromkeys(found, sides[0]),
        "above_tail": dict.fromkeys(found, sides[1]),
        "free": {"downhill": free},
    }
    cuts = {cut: [torch.from_numpy(part) for part in parts] for cut, parts in (found | {"downhill": downhill}).items()}
    return {cut: (left.to(head), right.to(head.device)) for cut, (left, right) in cuts.items()}, tails, frequency


def _gradient(head, states, labels, frequency, block=128):
    """The gradient of the loss at the head, and how each context's softmax compares with the frequency."""
    log_pi, gradient, ratios = torch.as_tensor(frequency).log().to(head), torch.zeros_like(head), []
    for part, label in zip(states.split(block), labels.split(block), strict=True):
        part = part.to(head)
        log_p = (part @ head.T).log_softmax(-1)
        ratios.append(torch.stack((log_p - log_pi).aminmax(dim=-1)).double().exp().cpu())
        surplus = log_p.exp_()
        surplus.scatter_add_(1, label.to(head.device)[:, None], -torch.ones_like(part[:, :1]))
        gradient.addmm_(surplus.T, part)
    return (gradient / len(states)).double().cpu().numpy(), *torch.cat(ratios, 1).numpy()


def _measure(head, states, labels, cuts, ranks, frequency, block):
    """Means over the states of one window, a row for each truncation and rank."""
    sums = {key: pd.Series(dtype=float) for key in product(cuts, ranks)}
    for part, label in zip(states.split(block), labels.split(block), strict=True):
        part, chosen = part.to(head), label.to(head.device)[:, None]
        logits = part @ head.T
        before, old = bounds.softmax(logits, frequency), _losses(logits, chosen)
        for cut, (left, right) in cuts.items():
            seen = (part.double() @ right.T).to(head)  # large and small directions meet here: float32 would lose some
            for rank, cut_logits in _each_rank(seen, left, ranks):
                values = {"loss": old, "rise": _losses(cut_logits, chosen) - old}
                if cut != "downhill":
                    values |= bounds.divergences(before, cut_logits - logits)
                sums[cut, rank] = sums[cut, rank].add(pd.DataFrame(values).sum(), fill_value=0.0)
    return pd.DataFrame(
        [{"truncation": cut, "rank": rank, **(total / len(states))} for (cut, rank), total in sums.items()]
    )


def _each_rank(seen, left, ranks):
    """Rank and logits of the head that is left[:, :rank] on what it sees, one rank after the other."""
    logits, done = seen.new_zeros(len(seen), len(left)), 0
    for rank in sorted(ranks):
        logits, done = logits.addmm(seen[:, done:rank], left[:, done:rank].T), rank
        yield rank, logits


def _losses(logits, chosen):
    return (logits.logsumexp(-1) - logits.gather(1, chosen)[:, 0]).double().cpu().numpy()


def over_windows(real: pd.DataFrame, sample: str = "held out") -> pd.DataFrame:
    """Means over the windows of a sample of `real_head`, with 95 % intervals of the divergence and of the rise.

    A row for each truncation and rank, with every column of the frame, and divergence_low, divergence_high, rise_low,
    rise_high (Student's t over windows; not a number for a single one).
    """
    groups = real[real["sample"] == sample].groupby(["truncation", "rank"])
    means = groups.mean(numeric_only=True)
    for name in ("divergence", "rise"):
        half = groups[name].sem() * stats.t.ppf(0.975, (groups[name].count() - 1).clip(lower=1))
        means[f"{name}_low"], means[f"{name}_high"] = means[name] - half, means[name] + half
    return means.reset_index().drop(columns="window")


def stacked(means: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Frames by sample as one, with a column `sample`."""
    return pd.concat([frame.assign(sample=sample) for sample, frame in means.items()], ignore_index=True)


def gains(real: pd.DataFrame, draws: int = 2000, seed: int = 0) -> pd.DataFrame:
    """How many times smaller the divergence is by frequency: sample, rank, gain, low, high, 95 % over whole windows.

    The gain is the ratio of the means over windows; its interval comes from a paired bootstrap of the windows.
    """
    rows, random = [], np.random.default_rng(seed)
    for (sample, rank), part in real[real.truncation != "downhill"].groupby(["sample", "rank"]):
        pairs = part.pivot(index="window", columns="truncation", values="divergence")[
            ["whitened", "by frequency"]
        ].to_numpy()
        drawn = pairs[random.integers(0, len(pairs), (draws, len(pairs)))].mean(1)
        low, high = np.quantile(drawn[:, 0] / drawn[:, 1], [0.025, 0.975])
        rows.append((sample, rank, pairs[:, 0].mean() / pairs[:, 1].mean(), low, high))
    return pd.DataFrame(rows, columns=["sample", "rank", "gain", "low", "high"])
