"""Heads beside the linear one: probabilities, gradients, chunks, memory, ranks, and runs that can be compared."""

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from lib.data import remedies as criteria
from lib.study import remedies as study
from lib.study import width_output
from lib.train import chunked, frozen, joint, remedies

VOCABULARY, WIDTH, STATES = 96, 6, 40


def made(kind, dtype=torch.float64):
    """A head of a kind with weights large enough to bend it, and states, targets and previous tokens for it."""
    generator = torch.Generator().manual_seed(0)
    counts = torch.randint(0, 3, (VOCABULARY, VOCABULARY), generator=generator).float()
    head = remedies.head(kind, VOCABULARY, WIDTH, seed=1, **({"counts": counts} if kind == "bigram" else {}))
    with torch.no_grad():
        for parameter in head.parameters():
            parameter += 0.5 * torch.randn(parameter.shape, generator=generator)
    states = 2 * torch.randn(STATES, WIDTH, generator=generator)
    targets, previous = torch.randint(0, VOCABULARY, (2, STATES), generator=generator)
    return head.to(dtype), states.to(dtype), targets, previous


def whole(head, states, targets, previous):
    """The loss and its gradients by autograd through all log-probabilities at once, float64."""
    states = states.detach().requires_grad_()
    shares, logits = head.components(states, previous)
    logged = (shares[..., None] + logits.log_softmax(-1)).logsumexp(1)
    penal = head.penalty(logits, targets, -logits.log_softmax(-1).gather(2, _everywhere(targets, logits))[..., 0])
    loss = F.nll_loss(logged, targets) + penal / len(states)
    return loss, torch.autograd.grad(loss, [states, *head.parameters()])


def _everywhere(targets, logits):
    return targets[:, None, None].expand(-1, logits.shape[1], 1)


@pytest.mark.parametrize("kind", remedies.HEADS)
def test_probabilities_sum_to_one(kind):
    head, states, _, previous = made(kind, torch.float32)
    sums = torch.cat(list(head.log_probabilities(states, previous))).double().exp().sum(1)
    assert (sums - 1).abs().max() < 1e-6


@pytest.mark.parametrize("kind", remedies.HEADS)
def test_chunks_give_the_loss_and_the_gradients_of_autograd(kind, monkeypatch):
    head, states, targets, previous = made(kind)
    monkeypatch.setattr(chunked, "CELLS", 7 * VOCABULARY)  # so that chunks don't divide the states
    loss, gradients = whole(head, states, targets, previous)
    states.requires_grad_()
    found = head.loss(states, targets, previous)
    found.backward()
    assert found.item() == pytest.approx(loss.item(), rel=1e-12)
    for own, wanted in zip([states, *head.parameters()], gradients, strict=True):
        torch.testing.assert_close(own.grad, wanted, rtol=1e-9, atol=1e-12)


def test_held_out_loss_has_no_penalty():
    for kind in ("mu-loss", "z-loss"):
        head, states, targets, previous = made(kind)
        plain = F.cross_entropy(states @ head.weight.T, targets)
        assert head.loss(states, targets, penal=False).item() == pytest.approx(plain.item(), rel=1e-12)
        assert head.loss(states, targets).item() > plain.item()


@pytest.mark.parametrize("kind", remedies.HEADS)
def test_memory_is_at_most_a_quarter_of_the_logits(kind):
    vocabulary, width, count = 4096, 16, 4096
    more = {"counts": torch.ones(vocabulary, vocabulary)} if kind == "bigram" else {}
    head, targets = remedies.head(kind, vocabulary, width, **more), torch.arange(count)
    states, materialised = torch.randn(count, width, requires_grad=True), 4 * vocabulary * count
    chunk = next(head._chunks(states, targets))
    in_flight = joint.footprint(head, chunk[0], chunk[1], chunk[1]) * len(chunk[0])
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t.nbytes), t)[1], lambda t: t):
        loss = head.loss(states, targets, targets)
    outside = 4 * (states.numel() + sum(p.numel() for p in head.parameters()))  # gradients, until they are asked for
    loss.backward()
    assert in_flight + outside <= materialised / 4
    assert max(kept) <= materialised / 4


def test_linear_head_has_rank_d_plus_one_and_a_mixture_exceeds_it():
    of = {"linear": WIDTH + 1, "centred": WIDTH + 1, "bias": WIDTH + 2, "factorised": WIDTH // 2 + 1}
    for kind, rank in of.items():
        head, states, _, previous = made(kind)
        assert joint.rank(head, states, previous) == rank
    head = remedies.head("mixture", 8, 1, components=2).double()
    with torch.no_grad():  # two softmaxes that lean to opposite sides, mixed by the sign of one number
        head.weight.copy_(torch.linspace(-2, 2, 8)[:, None])
        head.facets.copy_(torch.tensor([[[3.0]], [[-1.0]]]))
        head.prior.copy_(torch.tensor([[2.0], [-2.0]]))
    assert joint.rank(head, torch.linspace(-2, 2, 9)[:, None].double(), None) > 2


def test_what_each_head_promises():
    head, states, _, _ = made("monotonic")
    bent = head.logits(states, None)
    order = (states @ head.weight.T).argsort(1)
    assert (bent.gather(1, order).diff(dim=1) >= 0).all()
    fresh = remedies.head("monotonic", VOCABULARY, WIDTH).double()
    plain = states @ fresh.weight.T
    torch.testing.assert_close(fresh.logits(states, None).log_softmax(1), plain.log_softmax(1))
    capped, states, _, _ = made("soft cap")
    assert capped.logits(1e4 * states, None).abs().max() <= remedies.CAP
    centred, states, _, _ = made("centred")
    torch.testing.assert_close(
        next(centred.log_probabilities(states)), (states @ centred.weight.T).log_softmax(1), rtol=1e-9, atol=1e-12
    )


def test_a_bigram_head_starts_from_the_counts():
    counts = torch.tensor([[8.0, 2.0, 0.0], [0.0, 5.0, 5.0], [1.0, 1.0, 1.0]])
    head = remedies.head("bigram", 3, 1, counts=counts)
    first = next(head.log_probabilities(torch.zeros(1, 1), torch.tensor([0]))).exp()[0]
    frequency = (counts.sum(0) + 1) / (counts.sum() + 3)
    torch.testing.assert_close(first, (counts[0] + 2 * frequency) / 12)
    assert head.size() == 3 + 1 + 7


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: remedies.head("cubic", 8, 4), "there is no head 'cubic'"),
        (lambda: remedies.head("linear", 1, 4), "expected at least 2 and 1"),
        (lambda: remedies.head("factorised", 8, 4, rank=5), "expected 1 to the width, 4"),
        (lambda: remedies.head("bias", 8, 4, frequency=torch.zeros(7)), r"shape \(7,\): expected \(8,\)"),
        (lambda: remedies.head("mixture", 8, 4, components=0), "0 components"),
        (lambda: remedies.head("multi-facet", 8, 4, partitions=3), "a number that divides them"),
        (lambda: remedies.head("monotonic", 8, 4, knots=0), "0 knots"),
        (lambda: remedies.head("wide", 8, 4, wider=0), "0 times the width"),
        (lambda: remedies.head("bigram", 8, 4), "no counts"),
        (lambda: remedies.head("linear", 8, 4).loss(torch.zeros(2, 4), torch.tensor([0, 8])), "below 8"),
        (lambda: next(remedies.head("linear", 8, 4).log_probabilities(torch.zeros(0, 4))), "N at least 1"),
    ],
)
def test_bad_sizes_are_named_in_a_sentence(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize("kind", remedies.HEADS)
def test_every_head_names_states_and_targets_that_do_not_fit(kind):
    head, states, targets, previous = made(kind)
    with pytest.raises(ValueError, match=rf"expected \(N, {WIDTH}\)"):
        head.loss(states[:, 1:], targets, previous)
    with pytest.raises(ValueError, match=f"below {VOCABULARY}"):
        head.loss(states, targets + VOCABULARY, previous)
    with pytest.raises(ValueError, match="expected one for each"):
        next(head.log_probabilities(states, previous[1:]))


def test_joint_training_learns_and_repeats_itself():
    rng = np.random.default_rng(0)
    stream = (np.cumsum(rng.integers(0, 3, 50000)) % 32).astype(np.int32)  # the next token is one of three
    run = joint.Joint("mixture", 8, 2, 32, 40, 512, 1e-2, 2, 1024, 0)
    rows, again = (joint.train(run, stream, stream[:2000]) for _ in range(2))
    assert [row["loss"] for row in rows] == [row["loss"] for row in again]
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.5 > 0
    assert rows[-1]["step"] == 40 and rows[-1]["seconds"] > 0
    with pytest.raises(ValueError, match="lower the steps"):
        joint.train(run, stream[:1000], stream)


def test_a_head_learns_what_frozen_states_say():
    """Two classes that the sign of one direction decides: found on that direction, not on one without it."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(4000, 3, generator=generator) * torch.tensor([1.0, 4.0, 0.1])
    part = frozen.Part(states, (states[:, 1] > 0).long(), torch.zeros(4000, dtype=int))
    one, two = (frozen.directions(states, width) for width in (1, 3))
    assert (states @ one).square().mean().item() == pytest.approx(1, rel=1e-4)
    assert (states @ two).square().mean(0).tolist() == pytest.approx([1, 1, 1], rel=1e-4)
    assert abs(one[1, 0]) > 10 * abs(one[[0, 2], 0]).max()
    losses = []
    for blind in (False, True):
        own = part._replace(states=torch.randn(4000, 1, generator=generator) if blind else states @ one)
        head = remedies.head("linear", 2, 1)
        frozen.train(head, own, updates=100, batch=32, learning_rate=0.3, seed=0)
        losses.append(frozen.measured(head, own)["loss"])
    assert losses[0] < 0.3 < 0.6 < losses[1]
    with pytest.raises(ValueError, match="lower the updates"):
        frozen.train(head, own, updates=200, batch=32, learning_rate=0.1, seed=0)
    with pytest.raises(ValueError, match="expected 1 to 3"):
        frozen.directions(states, 4)


def test_rare_tokens_share_a_class():
    found = frozen.classes(torch.tensor([3, 3, 3, 1, 1, 0]), 5, 3)
    assert found.tolist() == [2, 1, 2, 0, 2]
    with pytest.raises(ValueError, match="expected 2 to 5"):
        frozen.classes(torch.tensor([0]), 5, 6)


def ended(better):
    """Ends of linear models whose loss is 8 - log10(parameters) + seed, and of a head so much lower than their line."""
    rows = [
        {"head": "linear", "width": width, "parameters": float(size), "seconds": size / 1e7, "loss": 8 - np.log10(size)}
        for width, size in ((16, 1e4), (24, 1e5), (32, 1e6))
    ]
    rows.append({"head": "wide", "width": 16, "parameters": 3e4, "seconds": 3e-2, "loss": 8 - np.log10(3e4) - better})
    frames = [pd.DataFrame(rows).assign(seed=seed, step=9, steps=9) for seed in range(3)]
    for seed, frame in enumerate(frames):
        frame["loss"] += seed + np.array([0.0, 0.0, 0.0, 0.001 * seed])
    return pd.concat(frames)


def test_a_head_is_held_against_the_line_of_linear_models_at_its_own_cost():
    found = study.compared(ended(0.1)).set_index("rule")
    assert found.value["parameters"] == pytest.approx(-0.099)
    assert found.value["time"] == pytest.approx(np.log10(3e5 / 3e4) - 0.099)  # its steps are ten times as dear
    assert list(found.gains) == [True, False]
    assert list(study.answered(study.compared(ended(0.1))).answer) == [criteria.NOT]
    assert list(study.answered(study.compared(ended(2.0))).answer) == [criteria.WORTH]
    found = pd.concat([study.compared(ended(2.0)), study.compared(ended(0.1), "width {}, longer")])
    table = study.plain(study.answered(found))
    assert table.loc[0].to_dict() == {"head": "wide", "width 16": criteria.WORTH, "width 16, longer": criteria.NOT}
    assert study.lists(study.answered(found))["sometimes"] == "wide"
    alone = study.compared(ended(2.0)[lambda frame: frame.seed == 0])
    assert list(study.answered(alone).answer) == [criteria.OPEN]


def test_a_rank_is_priced_against_the_linear_head_of_its_body():
    """Losses of 2 + 0.1 at rank 8 beside 2, seed by seed, and a tenth of the parameters saved."""
    rows = [
        {"head": head, "width": width, "seed": seed, "loss": loss + seed, "parameters": size, "seconds": seconds}
        for seed in range(3)
        for head, width, loss, size, seconds in (
            ("linear", 64, 2.0, 100.0, 4.0),
            ("rank 8", 64, 2.1 + 0.001 * seed, 90.0, 3.0),
            ("linear", 96, 1.0, 200.0, 8.0),
        )
    ]
    row = width_output.prices(pd.DataFrame(rows).assign(step=9, steps=9)).iloc[0]
    assert (row["head"], row.saved, row.faster) == ("rank 8", pytest.approx(0.1), pytest.approx(0.25))
    assert row.cost == pytest.approx(0.101) and row.low < row.cost < row.high


def test_a_gain_needs_its_size_and_its_interval():
    assert criteria.gains(-0.05, -0.06, -0.04, 0.02) is True
    assert criteria.gains(-0.01, -0.015, -0.005, 0.02) is False
    assert criteria.gains(-0.05, -0.12, 0.02, 0.02) is None
    assert criteria.answer(True, None) == criteria.OPEN
    assert criteria.answer(None, False) == criteria.NOT
    assert criteria.criterion().answers["not"].endswith("a gain of 0.02 nats is excluded.")
