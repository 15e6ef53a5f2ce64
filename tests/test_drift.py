"""A mean logit that drifts: what storing adds to a gradient, how far AdamW moves, and what the two means do."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from lib.measure import drift
from lib.study import drift as task
from tests.test_heads import address, body  # noqa: F401

KAPPA = 2.0**-14


@pytest.fixture(scope="module")
def toy():
    return task.toy(vocabulary=256, width=6, contexts=20, seed=0)


def states(toy):
    return toy.states + toy.bias


def test_pushes_are_the_average_over_labels_of_stored_gradients(toy):
    push = drift.pushes(states(toy), toy.head, KAPPA)
    p = (states(toy) @ toy.head.T).softmax(1)
    everything = p[:, None] - torch.eye(256)  # (N, V labels, V)
    stored = (everything * KAPPA).half().float() / KAPPA
    mean = torch.einsum("ny,nyv->nv", p, stored)
    assert torch.allclose(push.rows, mean.T @ states(toy) / 20, atol=1e-6)
    assert push.delta == pytest.approx(-float(mean.sum(1).mean()), abs=1e-6)
    square = torch.einsum("ny,nyv,nd->vd", p, stored.square(), states(toy).square()) / 20
    assert torch.allclose(push.rows_square, square, rtol=1e-4, atol=1e-7)
    by_state = torch.einsum("ny,nyd->d", p, (everything @ toy.head).square()) / 20
    assert torch.allclose(push.bias_square, by_state, rtol=1e-4)


def test_curvature_is_the_hessian_by_the_bias(toy):
    push = drift.pushes(states(toy), toy.head, 1.0)
    labels = (states(toy) @ toy.head.T).softmax(1)
    loss = lambda bias: -(labels * ((toy.states + bias) @ toy.head.T).log_softmax(1)).sum(1).mean()  # noqa: E731
    exact = torch.autograd.functional.hessian(loss, toy.bias)
    assert torch.allclose(push.curvature, exact, atol=1e-6)


def test_a_wide_format_pushes_nothing_and_a_narrow_one_loses_the_tail(toy):
    fine, coarse = (drift.pushes(states(toy), toy.head, kappa) for kappa in (2.0**10, KAPPA))
    p = (states(toy) @ toy.head.T).softmax(1)
    gone = torch.from_numpy(drift.flushed(p.numpy(), KAPPA))
    spacings = (~gone).sum(1).double().mean() * 2.0**-25 / KAPPA + 2.0**-10
    assert 50 * abs(fine.delta) < coarse.delta
    assert abs(coarse.delta - float((p * gone).sum(1).mean())) < spacings


def test_speeds_rise_with_the_batch_at_first_by_its_root(toy):
    push = drift.pushes(states(toy), toy.head, KAPPA)
    small, more, huge = (drift.speeds(push, batch) for batch in (16, 64, 2**40))
    assert small["by_bias"] < more["by_bias"] < huge["by_bias"]
    assert huge["by_bias"] == pytest.approx(float(push.mean_row.abs().sum()), rel=1e-3)
    bias = drift.speeds(push, 1e-6)["by_bias"], drift.speeds(push, 4e-6)["by_bias"]
    assert bias[1] == pytest.approx(2 * bias[0], rel=1e-3)


def test_a_spike_moves_a_row_as_far_as_adam_would():
    moments, moved = [0.0, 0.0], 0.0
    for step in range(10_000, 10_400):  # far from the start, where Adam corrects
        moved += float(task.adam(moments, torch.tensor([1.0 if step == 10_000 else 0.0]), step))
    assert -moved == pytest.approx(drift.spike_reach(), rel=1e-2)


def test_a_bias_alone_stops_where_the_softmax_holds_it(toy):
    kappa = KAPPA
    push = drift.pushes(states(toy), toy.head, kappa)
    labels = (states(toy) @ toy.head.T).softmax(1)
    bias = toy.bias.clone()
    for _ in range(4000):
        p = ((toy.states + bias) @ toy.head.T).softmax(1)
        bias -= 0.2 * ((p - labels).mean(0) @ toy.head - push.delta * toy.head.mean(0))
    moved = float((bias - toy.bias) @ toy.head.mean(0))
    assert moved == pytest.approx(drift.pinned(push), rel=0.2)


def test_free_means_grow_as_their_linear_system_while_the_noise_is_large(toy):
    push = drift.pushes(states(toy), toy.head, KAPPA)
    push = replace(push, mean_row=push.mean_row * 1e-9)
    times = np.linspace(0, 20_000, 81)
    end = drift.free(push, 0.05, 6, times, 1e-18, 0.0)
    late = np.log(end[-1] / end[-21]) / (times[-1] - times[-21])
    spread = float((push.states_square - push.mean_state.square()).mean())
    noise = push.logit_square.double().numpy() / 0.05 + 1 / (drift.spike_reach() * 0.05) ** 2
    row = -np.mean(push.lost.numpy() / np.sqrt(noise * spread))
    bias = push.delta / (float(push.bias_square.mean()) / 0.05) ** 0.5
    assert late == pytest.approx(2 * drift.growth_adam(row, bias), rel=0.15)


def test_what_a_softmax_holds_grows_to_a_limit_under_decay(toy):
    push = drift.pushes(states(toy), toy.head, KAPPA)
    end = drift.held(push, 1000, [0.0, 1.0, 1e4], -3.0, 0.1)
    by_row = drift.speeds(push, 1000)["by_row"]
    assert end[0] == -3.0 and end[-1] == pytest.approx(10 * by_row + drift.pinned(push))


def test_simulated_adam_moves_as_told_and_float32_does_not():
    found = task.simulated([-12], [12, 18], vocabulary=512, width=8, contexts=32, steps=150)
    assert task.agreement(found) < 1.4
    trained = task.grown(KAPPA, 2**14, 0.02, 200, evaluations=2, vocabulary=256, width=6, contexts=16)
    ends = trained[trained.sum_lr == trained.sum_lr.max()].set_index("arm").offset
    assert ends["fp16"] > ends["float32"] + 1
    assert ends["held"] < ends["free"]


def test_attention_grows_at_either_sign():
    assert drift.growth_attention(-0.3, 9) == drift.growth_attention(0.3, 9) == pytest.approx(0.1)


def test_the_scale_that_is_needed_is_where_410m_falls_below():
    rows = [
        {"at": at, "model": model, "kappa": kappa, "free": end * (2 if model == task.NARROW else 1)}
        for at, kappa, end in ((task.FIRST, 0.0625, 800.0), ("2^-2", 0.25, 80.0), ("2^0", 1.0, 8.0))
        for model in (task.NARROW, task.WIDE)
    ]
    found = pd.DataFrame(rows)
    assert task.scale_needed(found, "free", least=20.0) == pytest.approx(4.0)
    assert 4.0 < task.scale_needed(found, "free", least=100.0) < 16.0
    assert np.isnan(task.scale_needed(found, "free", least=1e6))


def test_a_late_release_parts_two_sums_of_the_learning_rate():
    times = np.arange(0.0, 81.0)
    flat = [{"arm": "float32", "sum_lr": time, "offset": -1.0} for time in times]
    late = [{"arm": "fp16", "sum_lr": time, "offset": 0.0 if time < 60 else 99.0} for time in times]
    found = task.released(pd.DataFrame(flat + late).assign(batch=8, seed=0))
    assert found.ratio[0] == pytest.approx(100.0)


def test_pythia_by_a_gauge_is_told_at_every_kappa_and_moved_less_by_a_larger_one(address):  # noqa: F811
    found = task.pythia(address, "wiki-en", 256, [-14, 4], 5.0, context=32)
    assert set(found["at"]) == {task.FIRST, "2^-14", "2^4"}
    held = found[found.model == task.NARROW].set_index("at").held
    assert held["2^-14"] > held["2^4"]
    assert set(task.ratios(found)["at"]) == set(found["at"])
