"""Bigram models: the exact gradient, what rounding takes from its zero sum, and a run of seconds."""

import numpy as np
import pandas as pd
import pytest
import torch

from lib.study import arms
from lib.study import bigram as task
from lib.train import bigram, precision

HALF = ("float16", 2.0**-12)


@pytest.fixture(scope="module")
def text():
    rng = np.random.default_rng(0)
    return bigram.bigrams(rng.zipf(1.3, 20000).clip(max=64) - 1, 8, 64)


@pytest.fixture
def p(text):
    logits = 4 * torch.randn(text.labels.shape, generator=torch.Generator().manual_seed(0))
    return logits.softmax(-1)


def test_counts_are_distributions_with_their_entropy(text):
    ids = np.array([0, 1, 0, 2, 0, 1])
    small = bigram.bigrams(ids, 1, 3)
    assert small.labels[0].tolist() == pytest.approx([0, 2 / 3, 1 / 3])
    assert small.entropy == pytest.approx(np.log(3) - 2 / 3 * np.log(2))
    assert torch.allclose(text.labels.sum(1), torch.ones(8)) and float(text.shares.sum()) == pytest.approx(1)
    with pytest.raises(ValueError, match="ask for fewer"):
        bigram.bigrams(ids, 4, 4)


def test_in_float32_the_gradient_is_autograds(text):
    runs = [bigram.Run("float32", 1.0, seed) for seed in (0, 1)]
    models = bigram.Models(runs, *text.labels.shape, 4)
    for _ in range(2):  # a step keeps nothing of the one before
        bigram.backward(models, runs, text)
    found = [parameter.grad.clone() for parameter in models.parameters()]
    logs = (models.states() @ models.heads.transpose(1, 2)).log_softmax(-1)
    wanted = torch.autograd.grad(-(text.shares[:, None] * text.labels * logs).sum(), list(models.parameters()))
    for ours, theirs in zip(found, wanted, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-7, rtol=1e-4)


@pytest.mark.parametrize("dtype, kappa", [HALF, ("float16", 1.0), ("bfloat16", 2.0**-12)])
def test_the_gradient_is_the_mean_over_labels_of_the_rounded_one(text, p, dtype, kappa):
    each = ((p[:, None] - torch.eye(64)) * kappa).to(getattr(torch, dtype)).float() / kappa  # (N, label, V)
    wanted = (text.labels[:, :, None] * each).sum(1)
    assert torch.allclose(bigram.expected_gradient_(p, text, bigram.Run(dtype, kappa, 0)), wanted, atol=1e-6)


@pytest.mark.parametrize("balanced", [False, True])
def test_gradients_of_several_runs_at_once_are_those_of_each(text, p, balanced):
    run, both = bigram.Run(*HALF, 0, balanced=balanced), torch.stack([p, p.roll(1, 0)])
    apart = [bigram.expected_gradient_(one.clone(), text, run) for one in both]
    assert torch.equal(bigram.expected_gradient_(both, text, run), torch.stack(apart))


def test_rows_sum_to_zero_in_float32(text, p):
    assert bigram.expected_gradient_(p, text, bigram.Run("float32", 1.0, 0)).double().sum(1).abs().max() < 1e-6


def test_a_rounded_row_sums_to_minus_what_is_flushed():
    tail = 2.0**-26 / HALF[1]  # half of the least that fp16 keeps
    p = torch.full((1, 64), tail)
    p[0, :4] = 0.25
    p[0, 0] -= 60 * tail  # a multiple of the spacing there, so that the tail alone is rounded
    text = bigram.bigrams(np.array([0, 1, 0, 2, 0, 3] * 50), 1, 64)
    found = bigram.expected_gradient_(p, text, bigram.Run(*HALF, 0)).double().sum(1)
    assert -float(found) == pytest.approx(60 * tail, rel=1e-4)


def test_a_balanced_gradient_sums_to_zero_for_each_label(text, p):
    run = bigram.Run(*HALF, 0, balanced=True)
    found = bigram.expected_gradient_(p.clone(), text, run)
    each = precision.rounded(p[:, None] - torch.eye(64), *HALF)  # (N, label, V)
    each -= each.sum(-1, keepdim=True) * torch.eye(64)
    assert torch.allclose(found, (text.labels[:, :, None] * each).sum(1), atol=1e-6)
    assert found.double().sum(1).abs().max() < 1e-6


def test_a_run_is_the_same_alone_and_among_others_and_learns(text):
    runs = [bigram.Run("float32", 1.0, 0), bigram.Run(*HALF, 1), bigram.Run(*HALF, 1, centred=True)]
    together, again = (pd.DataFrame(bigram.train(runs, text, 4, 60, 0.01, 6)) for _ in range(2))
    pd.testing.assert_frame_equal(together, again)
    alone = pd.DataFrame(bigram.train(runs[1:2], text, 4, 60, 0.01, 6))
    assert np.allclose(together[together.run == 1].gap, alone.gap, rtol=1e-4)
    first, last = (together[together.step == step].set_index("run") for step in (0, 60))
    assert (last.gap < first.gap).all() and (last.gap > 0).all()
    assert abs(last.offset[2]) < 1e-5 < abs(last.offset[1])
    assert abs(last.delta[0]) < 1e-6 < abs(last.delta[1])


def test_the_rate_warms_up_and_ends_at_a_tenth():
    rates = [bigram.factor(step, 1000) for step in range(1001)]
    assert rates[9] == 1 and rates[0] == 0.1 and rates[1000] == pytest.approx(0.1)
    assert (np.diff(rates[10:]) <= 0).all()


def drawn(turning):
    """Losses that fall, and in those arms rise again."""
    steps, noise = np.arange(41), np.random.default_rng(0)
    frames = []
    for arm in task.arms([0, -12]):
        for seed in range(4):
            loss = (
                4 + np.exp(-steps / 3) + (arm in turning) * 0.01 * (steps - 20).clip(0) + 1e-4 * noise.normal(size=41)
            )
            about = dict.fromkeys(task.QUANTITIES, loss - 4) | {"arm": arm, "seed": seed, "step": steps, "loss": loss}
            frames.append(pd.DataFrame(about))
    return pd.concat(frames)


def test_an_arm_turns_where_its_runs_do_and_the_control_does_not():
    frame = drawn(["fp16, 2^-12"])
    table = arms.answers(arms.verdicts(frame, 0.005), "float32").set_index("arm")
    assert table.turns.to_dict() == {arm: arm == "fp16, 2^-12" for arm in task.arms([0, -12])}
    assert table.rise["fp16, 2^-12"] == pytest.approx(0.2, abs=0.01)
    both = arms.answers(arms.verdicts(drawn(["fp16, 2^-12", "float32"]), 0.005), "float32")
    assert not both.turns.any() and arms.listed(both) == "none"


def test_the_interval_over_seeds_is_students():
    frame = drawn([])
    last = frame[(frame.step == 40) & (frame.arm == "float32")].gap
    found = arms.summary(frame, task.QUANTITIES).query("arm == 'float32' and quantity == 'gap'").iloc[0]
    reach = 3.182446 * last.std() / 2
    assert [found.low, found.value, found.high] == pytest.approx(
        [last.mean() - reach, last.mean(), last.mean() + reach]
    )
    table = arms.wide(arms.summary(frame, task.QUANTITIES)).set_index("arm")
    assert list(table.index) == list(task.arms([0, -12])) and table.gap["float32"] == pytest.approx(found.value)


def test_the_cost_of_rounding_is_told_from_stairs_to_squares_and_its_jump_is_found():
    offset = np.geomspace(300, 1900, 60)
    for power, name in ((2 * np.floor(np.log2(offset)), "stairs"), (2 * np.log2(offset), "square")):
        runs = [
            pd.DataFrame({"arm": task.STORED, "seed": seed, "step": np.arange(60), "offset": offset, "gap": 0.0})
            for seed in range(4)
        ]
        noise = np.random.default_rng(0).normal(size=(4, 60)) / 20
        frame = pd.concat(
            [run.assign(gap_fp16=2.0 ** (power - 25 + each)) for run, each in zip(runs, noise, strict=True)]
        )
        found = task.steps(task.seen(frame.assign(loss=1.0)), 50, 0)
        assert (found["low"] > 0) if name == "stairs" else (found["high"] < 0)
        assert found[name] < 0.06
    jump = task.jump(task.seen(runs[0].assign(gap_fp16=np.where(offset > 1024, 0.04, 0.01), loss=1.0)))
    assert jump["before"] == 0.01 and jump["after"] == 0.04 and jump["from"] < 1024 < jump["to"]
    assert np.isnan(task.jump(task.seen(runs[0].assign(gap_fp16=0.01, loss=1.0)).head(3))["step"])
