"""The training laboratory: the suite's own training by default, each change as it says, grids by name."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import torch

from lib.data.cache import ROOT
from lib.measure import offsets
from lib.study import arms, trials
from lib.train import followed, loop, precision, together, trial
from lib.train.counted import counted

SMALL = dict(width=8, layers=2, heads=2, vocabulary=64, context=16, tokens_per_step=128, steps=12, evaluations=3)
SMALL |= dict(validation_tokens=256)


@pytest.fixture(scope="module")
def stream():
    return np.random.default_rng(0).zipf(1.4, 4000).clip(max=64) - 1


def rows(stream, number=0):
    return torch.from_numpy(stream[number * 136 : (number + 1) * 136].reshape(8, 17).astype(np.int64))


def steps(run, stream, count=5):
    training = trial.Training(run, stream)
    losses = [training.update(rows(stream, number)) for number in range(count)]
    return training, losses


def test_by_default_it_trains_as_the_suite_does(stream):
    same = dict(width=8, layers=2, heads=2, vocabulary=64, context=16, tokens_per_step=128, steps=12, seed=3)
    run = loop.Run(
        name="x", learning_rate=1e-2, save_every=512, evaluations=1, validation_tokens=256, output_bias=True, **same
    )
    suite = loop.Training(run, stream)
    theirs = [suite.update(rows(stream, number)) for number in range(5)]
    _, ours = steps(trial.Trial(**SMALL | {"seed": 3, "output_bias": True}), stream)
    assert ours == pytest.approx(theirs, rel=1e-5)


def test_what_is_centred_tied_or_without_key_biases_stays_so(stream):
    after, _ = steps(trial.Trial(**SMALL, centred="after", key_bias=False, parallel=False), stream)
    assert after.network.lm_head.weight.mean(0).abs().max() < 1e-7
    for layer in after.network.gpt_neox.layers:
        biases = offsets.by_head(layer.attention.query_key_value.bias, 2)
        assert (biases[1] == 0).all() and (biases[0] != 0).any() and (biases[2] != 0).any()
    inside, _ = steps(trial.Trial(**SMALL, centred="inside"), stream)
    assert inside.head.mean(0).abs().max() < 1e-7 < inside.network.lm_head.weight.mean(0).abs().max()
    tied, _ = steps(trial.Trial(**SMALL, tied=True), stream)
    assert tied.head is tied.network.gpt_neox.embed_in.weight


def test_penalties_pull_at_what_they_name(stream):
    plain, _ = steps(trial.Trial(**SMALL), stream)
    pulled, _ = steps(trial.Trial(**SMALL, mu_loss=10.0), stream)
    assert pulled.head.mean(0).norm() < 0.7 * plain.head.mean(0).norm()
    small, _ = steps(trial.Trial(**SMALL, z_loss=1.0), stream)
    states = [one.states(rows(stream)) @ one.head.T for one in (plain, small)]
    before, after = (logits.logsumexp(-1).abs().mean().item() for logits in states)
    assert after < before


@pytest.mark.parametrize("decayed, count", [("matrices", 10), ("gains", 15), ("biases", 23), ("all", 28)])
def test_decay_falls_on_what_it_names(stream, decayed, count):
    training = trial.Training(trial.Trial(**SMALL, decayed=decayed), stream)
    group = [g for g in training.optimiser.param_groups if g["weight_decay"]]
    assert len(group) == 1 and len(group[0]["params"]) == count


def test_the_loss_scale_halves_where_a_sum_overflows_and_doubles_when_it_does_not(stream):
    run = trial.Trial(**SMALL, dynamic=True, kappa=2.0**20, patience=2)
    training, _ = steps(run, stream, 14)
    largest = 65504 / 32 / 128
    assert training.skipped > 0 and training.kappa < 2.0**20 and training.step == 14
    gradients = [p.grad.abs().max().item() for p in training.parameters()]
    assert training.kappa * max(gradients) <= 2 * largest
    calm, _ = steps(trial.Trial(**SMALL, dynamic=True, kappa=2.0**-4, patience=2), stream, 4)
    assert calm.skipped == 0 and calm.kappa == 2.0**-2


def test_what_is_followed_is_what_it_says(stream):
    training, _ = steps(trial.Trial(**SMALL, gradient="fp16", kappa=2.0**-20), stream)
    batch = rows(stream, 7)
    found = followed.measured(training, batch, loop.log_unigram(stream, 64).numpy())
    with torch.no_grad():
        logits = training.states(batch) @ training.head.T
        loss = torch.nn.functional.cross_entropy(logits, batch[:, 1:].flatten()).item()
    assert found["loss"] == pytest.approx(loss, rel=1e-5)
    assert found["offset"] == pytest.approx(logits.mean().item(), rel=1e-4)
    assert found["delta"] > 0.01 and found["kappa"] == 2.0**-20
    assert found["loss_bf16"] != found["loss"] and abs(found["loss_bf16"] - found["loss"]) < 0.01
    assert found["score_offset"] == max(found[f"score_offset_{layer}_{head}"] for layer in (0, 1) for head in (0, 1))


def test_the_mean_score_of_a_query_is_its_product_with_the_mean_key(stream):
    training, _ = steps(trial.Trial(**SMALL), stream)
    seen = []
    attend = torch.nn.functional.scaled_dot_product_attention

    def spy(query, key, value, is_causal):
        scores = (query @ key.transpose(-1, -2)) * query.shape[-1] ** -0.5
        kept = torch.ones(scores.shape[-2:]).tril()
        seen.append(((scores * kept).sum(-1) / kept.sum(-1)).abs().mean((0, 2)))
        return attend(query, key, value, is_causal=is_causal)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial.F, "scaled_dot_product_attention", spy)
        found = followed.measured(training, rows(stream), loop.log_unigram(stream, 64).numpy())
    for layer, heads in enumerate(seen[:2]):
        assert [found[f"score_offset_{layer}_{head}"] for head in (0, 1)] == pytest.approx(heads.tolist(), rel=1e-4)


def test_underflow_pushes_the_mean_logit_up(stream):
    runs = [trial.Trial(**SMALL | {"steps": 120}, gradient=dtype, kappa=2.0**-20) for dtype in ("fp32", "fp16", "bf16")]
    exact, fp16, bf16 = (together.train([run], stream, stream[:400])[0][-1]["offset"] for run in runs)
    assert fp16 > exact + 1 and abs(bf16 - exact) < 0.1


def test_a_run_again_is_the_same_and_another_order_is_another(stream):
    run = trial.Trial(**SMALL, gradient="fp16", stochastic=True, kappa=2.0**-8)
    once, twice = (together.train([run], stream, stream[:400])[0] for _ in range(2))
    np.testing.assert_equal(once, twice)
    other = together.train([trial.Trial(**SMALL, order=5)], stream, stream[:400])[0]
    assert other[0]["loss"] == once[0]["loss"] and other[-1]["loss"] != once[-1]["loss"]


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"gradient": "fp8"}, "expected fp32, bf16, fp16"),
        ({"kappa": 0.3}, "expected a power of two"),
        ({"width": 10, "heads": 4}, "not divided by 4 heads"),
        ({"tokens_per_step": 1000}, "expected a power of two and a multiple of 128"),
        ({"centred": "yes"}, "expected one of never, after, inside"),
        ({"steps": 0}, "expected 1 or more"),
        ({"tokens_per_step": 0}, "expected 1 or more"),
        ({"order": -5}, "0 or more, and below 2\\^63"),
        ({"seed": 10**20}, "below 2\\^63"),
        ({"kappa": 2.0**-400}, "from 2\\^-64 to 2\\^64"),
        ({"width": []}, "width is an empty list"),
        ({"gradient": ["fp32", "float32"]}, "two runs of the grid are the same"),
        ({"labels": "expected", "z_loss": 1e-4}, "need drawn ones"),
        ({"heads": 0}, "expected 1 or more"),
        ({"learning_rate": -0.1}, "more than 0, and finite"),
        ({"z_loss": -1.0}, "0 or more, and finite"),
        ({"warmup": 2.0}, "expected 0 to 1"),
        ({"beta2": 1.0}, "less than 1"),
        ({"widht": 8}, "did you mean width"),
        ({"wd": [8, 16]}, "expected one of seed"),
        ({"kappa": [1.0, 3.0]}, "expected a power of two"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is(settings, message):
    with pytest.raises(ValueError, match=message):
        trials.points(settings)


def test_a_run_without_a_curve_is_refused_before_it_is_trained():
    with pytest.raises(ValueError, match="so that there is a curve"):
        trials.along(trials.points({"steps": 1}), "smoke")


def test_a_text_that_is_too_short_is_refused(stream):
    with pytest.raises(ValueError, match="expected 128 for one step"):
        together.train([trial.Trial(**SMALL)], stream[:100], stream[:400])
    with pytest.raises(ValueError, match="expected 256"):
        together.train([trial.Trial(**SMALL)], stream, stream[:100])


def test_lists_make_a_grid_and_names_say_what_differs():
    grid = trials.points({"seed": [0, 1], "kappa": [1.0, 2.0**-12], "gradient": "fp16", "width": 16})
    assert len(grid) == 4 and all("width" not in point for point in grid)
    measured = trials.pd.DataFrame({"step": [0, 10, 0, 20] * 2, "kappa": np.arange(8.0)})  # a measure of that name
    frame = trials.labelled(measured, grid)
    assert frame.arm.tolist() == ["kappa 1", "kappa 1", "kappa 2^-12", "kappa 2^-12"] * 2
    assert frame.seed.tolist() == [0] * 4 + [1] * 4
    assert arms.last(frame).step.tolist() == [10, 20] * 2  # each arm to its own end


def test_the_command_makes_a_page_and_goes_on_from_what_is_kept(tmp_path):
    asked = "-p seed [0,1] -p gradient [fp32,fp16] -p kappa 2^-12 -p steps 12 -p width 8".split()
    command = [sys.executable, "-m", "lib.run.chapter", "lab_training", "--profile", "smoke", "--out", str(tmp_path)]
    done = subprocess.run([*command, *asked], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    subprocess.run([sys.executable, "-m", "lib.show.page", str(tmp_path / "tries")], cwd=ROOT, check=True)
    (page,) = (tmp_path / "tries").glob("*.html")
    html = page.read_text()
    assert "0 of 2 runs saturate" in html and "<svg" in html and "http" not in html.replace("http://www.w3.org", "")


def test_arms_turn_only_beside_a_calm_control():
    steps, noise = np.arange(41), np.random.default_rng(0)
    frames = [
        trials.pd.DataFrame({"arm": arm, "seed": seed, "step": steps, "loss": 4 + np.exp(-steps / 3) + rise})
        for arm, slope in (("calm", 0), ("turning", 0.01))
        for seed in range(4)
        for rise in [slope * (steps - 20).clip(0) + 1e-4 * noise.normal(size=41)]
    ]
    called = arms.verdicts(trials.pd.concat(frames), 0.005)
    assert arms.answers(called, "calm").set_index("arm").turns.to_dict() == {"calm": False, "turning": True}
    assert not arms.answers(called, "turning").turns.any()
    assert precision.named("fp16") == "float16"


def test_counted_labels_are_the_counts_and_have_the_least_loss(stream):
    source = counted(stream, 64)
    row = torch.from_numpy(stream[:6].astype(np.int64))[None]
    found = source.labels(row)(slice(1, 4))
    for place, labels in enumerate(found, start=1):
        one, two = (
            np.bincount(stream[lag:][stream[:-lag] == token], minlength=64).astype(float)
            for lag, token in ((1, stream[place]), (2, stream[place - 1]))
        )
        np.testing.assert_allclose(labels, (one / one.sum() + two / two.sum()) / 2, atol=1e-6)
    torch.testing.assert_close(source.labels(row)(slice(0, 1))[0], source.one[stream[0]])
    rows = together.train([trial.Trial(**SMALL, labels="expected")], stream, stream[:400])[0]
    assert rows[0]["floor"] < rows[-1]["loss"] < rows[0]["loss"]


def test_trials_trained_together_are_those_trained_apart(stream):
    runs = [trial.Trial(**SMALL, gradient=dtype, labels="expected") for dtype in ("fp32", "fp16")]
    both = together.train(runs, stream, stream[:400])
    np.testing.assert_equal(both, [together.train([run], stream, stream[:400])[0] for run in runs])
    with pytest.raises(ValueError, match="differ in steps"):
        together.train([runs[0], dataclasses.replace(runs[0], steps=3)], stream, stream[:400])
