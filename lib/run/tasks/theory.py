"""What chapter 5.2 computes: the lemmas and the theorem on drawn problems, the bounds on a real head."""

from itertools import product

import numpy as np
import pandas as pd
import torch
from threadpoolctl import threadpool_limits

from lib.data import architecture, checkpoints, corpora
from lib.measure import bounds
from lib.measure.softmax_problem import best_head, draw, gradient, loss, losses, optimum

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


def real_head(address, corpus, contexts, ranks, length=512, block=128, device="cpu") -> pd.DataFrame:
    """KL divergence from a model's own softmax when its head is cut to rank r, and every bound, on real states.

    `contexts` validation tokens of `corpus`, read in windows of `length`; the same contexts give the metric of the
    truncation, as in the theorem. Columns truncation ("whitened", "whitened, by frequency"), rank, quarter_tail
    (T_r / 4, from singular values), loss (of the true next token, full head), rise (of that loss), linear (its
    first-order part), and the means of `bounds.divergences`; nats per token.
    """
    if max(ranks) >= contexts:
        raise ValueError(f"rank {max(ranks)} fits {contexts} contexts exactly: pass more contexts than that.")
    length = min(length, contexts)
    model, tokenizer = checkpoints.load(address, device=device)
    ids = np.array(corpora.tokens(corpus, tokenizer, "validation")[: contexts // length * (length + 1)])
    windows = torch.as_tensor(ids.reshape(-1, length + 1).astype(np.int64), device=device)
    with torch.inference_mode():
        head = architecture.readout(model).matrix()
        states = torch.cat([architecture.last_states(model, window[None, :-1])[0] for window in windows])
        return _cut(head, states.float(), windows[:, 1:].reshape(-1), ranks, block)


def _cut(head, states, targets, ranks, block):
    moment = (states.double().T @ states.double() / len(states)).cpu().numpy()
    frequency = sum((part @ head.T).softmax(-1).double().sum(0) for part in states.split(block)).cpu().numpy()
    cuts = {}
    for kind, weight in {"whitened": None, "whitened, by frequency": frequency}.items():
        cuts[kind] = [
            torch.as_tensor(part, dtype=torch.float32, device=head.device)
            for part in bounds.factors(head, moment, weight)
        ]
    sums = {key: pd.Series(dtype=float) for key in product(cuts, ranks)}
    for part, target in zip(states.split(block), targets.split(block), strict=True):
        logits, chosen = part @ head.T, target[:, None]
        old = logits.gather(1, chosen)[:, 0] - logits.logsumexp(-1)
        for kind, rank in sums:
            left, right = cuts[kind]
            change = -(part @ right[rank:].T) @ left[:, rank:].T
            values = pd.DataFrame(bounds.divergences(logits, change))
            new = (logits + change).gather(1, chosen)[:, 0] - (logits + change).logsumexp(-1)
            values["loss"], values["rise"] = -old.cpu().numpy(), (old - new).cpu().numpy()
            sums[kind, rank] = sums[kind, rank].add(values.sum(), fill_value=0.0)
    tails = {kind: left.double().square().sum(0).cpu() / 4 for kind, (left, _) in cuts.items()}
    rows = [
        {"truncation": kind, "rank": rank, "quarter_tail": float(tails[kind][rank:].sum()), **(total / len(states))}
        for (kind, rank), total in sums.items()
    ]
    return pd.DataFrame(rows).assign(linear=lambda frame: frame.rise - frame.divergence)
