"""The paper's numbers must agree with one another: each figure with its constants, each reading with its unit."""

import math

import pandas as pd
import pytest

from lib.data import paper

FIGURES = ["1a", "1b", "1b-gaps", "2", "3", "4", "5", "6", "7", "8", "9", "table1", "lambada"]


@pytest.mark.parametrize("name", FIGURES)
def test_every_number_has_a_place_a_unit_and_an_error(name: str) -> None:
    frame = paper.figure(name)
    assert len(frame) and frame.attrs["where"] and frame.attrs["source"]
    assert set(frame.attrs["units"]) == set(frame.attrs["errors"]) == set(frame.columns)
    numbers = frame.select_dtypes("number").columns
    assert all(frame.attrs["units"][column] for column in numbers)
    assert not frame.drop(columns=[name for name in numbers if frame[name].hasnans]).isna().any().any()
    keys = [column for column in frame.columns if frame.attrs["errors"][column] in (None, 0)]
    assert not frame.duplicated(keys).any()


def test_the_law_and_the_points_give_the_gaps() -> None:
    points, gaps = paper.figure("1b"), paper.figure("1b-gaps")
    law = (
        paper.constant("A") / points["parameters"] ** paper.constant("alpha")
        + paper.constant("B") / points["tokens"] ** paper.constant("beta")
        + paper.constant("E")
    )
    points["recomputed"] = 100 * (points["loss"] / law - 1)
    both = points.merge(gaps, on=["model", "checkpoint"])
    assert len(both) == 8
    assert (both["recomputed"] - both["gap"]).abs().max() < gaps.attrs["errors"]["gap"]
    means = gaps[gaps["model"] == "mean"].set_index("checkpoint")["gap"]
    for checkpoint in ("final", "best"):
        stated = paper.number(f"gap_{checkpoint}")
        assert abs(means[checkpoint] - stated.value) <= stated.error


def test_compute_is_six_times_parameters_times_tokens() -> None:
    points = paper.figure("1b")
    flops = paper.constant("flops_per_parameter_token") * points["parameters"] * points["tokens"]
    assert (points["flops"] / flops - 1).abs().max() < 1e-3
    assert (points["tokens"] == points["step"] * paper.constant("tokens_per_step")).all()


def test_both_readings_of_the_losses_agree() -> None:
    curves, points = paper.figure("1a"), paper.figure("1b")
    both = points.merge(curves, on=["model", "step"], suffixes=("_point", "_curve"))
    error = curves.attrs["errors"]["loss"] + points.attrs["errors"]["loss"]
    assert len(both) == 9
    assert (both["loss_point"] - both["loss_curve"]).abs().max() <= error


def test_entropies_are_below_that_of_one_direction() -> None:
    frame = paper.figure("5")
    assert (frame["entropy"] <= frame["width"].map(math.log)).all() and (frame["entropy"] > 0).all()


def test_figure_8_is_a_part_of_figure_6() -> None:
    both = paper.figure("8").merge(paper.figure("6"), on=["model", "rank"])
    assert len(both) == len(paper.figure("8"))
    assert (both["loss_x"] - both["loss_y"]).abs().max() <= 0.01


@pytest.mark.parametrize(
    ("name", "keys", "column", "falls"),
    [
        ("6", ["model"], "loss", True),
        ("6", ["model"], "accuracy", False),
        ("7", ["tokenizer", "corpus"], "w_error", True),
        ("8", ["model"], "w_error", True),
        ("9", ["model"], "learning_rate", True),
    ],
)
def test_curves_over_the_rank_are_monotone(name: str, keys: list[str], column: str, falls: bool) -> None:
    for _, curve in paper.figure(name).groupby(keys):
        values = pd.Series(curve[column].to_numpy())
        assert values.is_monotonic_decreasing if falls else values.is_monotonic_increasing


def test_the_claims_are_numbered_and_told() -> None:
    assert set(paper.claims()) == {f"C{number}" for number in range(1, len(paper.claims()) + 1)}
    assert len(paper.claims()) >= 10
    assert all(claim.title and claim.sentence.endswith(".") and claim.section for claim in paper.claims().values())


def test_an_unknown_name_is_answered_with_those_that_exist() -> None:
    with pytest.raises(ValueError, match="no figure '10': expected one of 1a, 1b"):
        paper.figure("10")
    with pytest.raises(ValueError, match="no constant 'gamma': expected one of A, alpha"):
        paper.constant("gamma")


def test_frames_are_copies() -> None:
    frame = paper.figure("2")
    frame["anisotropy"] = 0
    assert paper.figure("2")["anisotropy"].max() > 0.9
