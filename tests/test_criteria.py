"""Every check of every claim can pass and can fail; criteria are what their commits hold."""

import subprocess
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lib.data import paper
from lib.data.criteria import criterion, parse
from lib.measure import checks, judge
from lib.show import claims
from lib.study import verdicts

ROOT = Path(__file__).parents[1]
CLAIMS = list(paper.claims())


def runs(width, **columns):
    return pd.DataFrame({"width": width} | columns)


WIDTHS = [128, 512, 1024, 2048]


def intervals(final, best, half=0.3):
    frame = pd.DataFrame({"value": {"final": final, "best": best}})
    return frame.assign(low=frame.value - half, high=frame.value + half)


def recipes(share):
    names = {name: rise for _, *pair in verdicts.PAIRS for name, rise in zip(pair, (1.0, share), strict=True)}
    jitter = np.linspace(-0.02, 0.02, len(names))
    rise = np.array(list(names.values())) + jitter
    return pd.DataFrame({"run": list(names), "best": 1.0, "final": np.exp(rise)})


def scores(worse, half=0.5):
    frame = pd.DataFrame({"worse": worse})
    return frame.assign(low=frame.worse - half, high=frame.worse + half)


def along(*shapes):
    """Runs of (perplexities, anisotropies) over steps 100 to 1,000."""
    frames = [
        pd.DataFrame({"model": f"m{k}", "seed": 0, "step": np.arange(100, 1100, 100), "perplexity": p, "anisotropy": a})
        for k, (p, a) in enumerate(shapes)
    ]
    return checks.late(pd.concat(frames), criterion("C5").limits)


FLAT, TURN = np.linspace(9, 8, 10), np.r_[np.linspace(9, 8, 6), 8.2, 8.4, 8.6, 8.8]
LOW, UP, LATE = np.full(10, 0.2), np.r_[np.full(6, 0.2), np.full(4, 0.9)], np.r_[np.full(9, 0.2), 0.9]


def spectra(*ends, dip=0.3):
    """Heads of the widths above: entropy 1, then a dip, then a share of ln d."""
    rows = [
        {"model": str(w), "seed": 0, "width": w, "step": step, "entropy": entropy}
        for w, end in zip(WIDTHS, ends, strict=True)
        for step, entropy in [(0, 0.0), (10, 1.0), (500, dip), (1000, end * np.log(w))]
    ]
    return pd.DataFrame(rows)


def views(raw, centred):
    return pd.DataFrame({"width": [576.0], "raw": [raw * np.log(576)], "centred": [centred * np.log(576)]})


def costs(*cost):
    return pd.DataFrame({"model": "m", "rank": [256, 1024][: len(cost)], "cost": cost, "error": 0.02})


def points(break_at):
    w_error = np.linspace(0.9, 0, 10)
    return pd.DataFrame({"arm": "a", "w_error": w_error, "loss": 2 + np.maximum(w_error - break_at, 0), "full": 2.0})


def gaps(share):
    return pd.DataFrame({"gap": [share, share / 2], "paper": [1.0, 1.0]})


ERRORS = {"w_error": 0.005, "loss": 0.01}
P, OWN = verdicts.PAPER, verdicts.OURS

# claim: (numbers pass and reading holds), (numbers fail and reading falls)
BOTH = {
    "C1": (
        lambda: verdicts.c1({P: runs(WIDTHS, saturated=[True, True, False, False])}, recipes(1.0)),
        lambda: verdicts.c1({P: runs(WIDTHS, saturated=[False, True, False, True])}, recipes(-0.2)),
    ),
    "C2": (
        lambda: verdicts.c2({P: intervals(8, 4)}, 0.7),
        lambda: verdicts.c2({P: intervals(2, -2)}, 0.2),
    ),
    "C3": (
        lambda: verdicts.c3({P: scores([1, 2, 3])}, scores([1, 2, 0.1]), scores([1, 2, 0.1])),
        lambda: verdicts.c3({P: scores([-1, 0.1, 0.2])}, scores([0.1, 0.1, 1]), scores([0.1])),
    ),
    "C4": (
        lambda: verdicts.c4(
            {P: runs(WIDTHS, anisotropy=[0.9, 0.6, 0.2, 0.1])},
            runs([300, 2000], anisotropy=[0.8, 0.1], family="other"),
        ),
        lambda: verdicts.c4(
            {P: runs(WIDTHS, anisotropy=[0.9, 0.1, 0.9, 0.1])},
            runs([300, 2000], anisotropy=[0.1, 0.8], family="other"),
        ),
    ),
    "C5": (
        lambda: verdicts.c5({P: along((TURN, UP), (TURN, UP), (FLAT, LOW)), OWN: along((FLAT, LOW))}),
        lambda: verdicts.c5({P: along((TURN, LATE), (TURN, LOW), (FLAT, UP), (TURN[::-1] + FLAT, UP))}),
    ),
    "C6": (
        lambda: verdicts.c6({P: spectra(0.9, 0.8, 0.1, 0.1)}, views(0.9, 0.8), True),
        lambda: verdicts.c6({P: spectra(0.9, 0.1, 0.1, 0.9, dip=0.99)}, views(0.9, 0.1), True),
    ),
    "C7": (
        lambda: verdicts.c7({P: costs(0.3, 0.06)}, (0.02, 0.01, 0.03), (0.03, 0.02, 0.04), ""),
        lambda: verdicts.c7({P: costs(-0.1, -0.1)}, (-0.02, -0.03, -0.01), (-0.02, -0.02, -0.01), ""),
    ),
    "C8": (
        lambda: verdicts.c8({OWN: pd.DataFrame({"dimension": [9000, 2000]})}, 1.05, 1.5, 1.2),
        lambda: verdicts.c8({OWN: pd.DataFrame({"dimension": [500, 2000]})}, 2.0, 1.01, 40),
    ),
    "C9": (
        lambda: verdicts.c9(gaps(0.5), np.array([1.9, 2.0]), ""),
        lambda: verdicts.c9(gaps(2.0), np.array([0.5, 2.0]), ""),
    ),
    "C10": (
        lambda: verdicts.c10({P: points(0.5), OWN: points(0.5)}, ERRORS, True, draws=50),
        lambda: verdicts.c10({P: points(0.2), OWN: points(0.8)}, ERRORS, True, draws=50),
    ),
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_every_claim_can_be_reproduced_and_hold(claim):
    judged = BOTH[claim][0]()
    assert (judged["claim"], judged["numbers"], judged["reading"]) == (claim, "reproduced", "holds")


@pytest.mark.parametrize("claim", CLAIMS)
def test_every_check_of_every_claim_can_fail(claim):
    judged = BOTH[claim][1]()
    passed = {name: [ok for _, ok in judged["checks"][name]] for name in ("numbers", "reading")}
    assert not any(passed["numbers"]) or claim in ("C3", "C5"), passed
    assert judged["numbers"] == ("reproduced in part" if any(passed["numbers"]) else "not reproduced")
    assert judged["reading"] == ("holds with a condition" if any(passed["reading"]) else "refuted by a control")
    shown, kept = claims.verdict(judged)._repr_mimebundle_()
    assert "fails" in shown["text/html"] and kept[claims.KEY] == judged


def test_checks_fail_one_by_one():
    limits = criterion("C5").limits
    assert checks.together(along((TURN, LOW), (FLAT, LOW)), limits) == {"rising": False, "calm": True}
    assert checks.together(along((TURN, UP), (FLAT, UP)), limits) == {"rising": True, "calm": False}
    assert checks.together(along((FLAT, LOW)), limits) == {"rising": None, "calm": True}
    assert checks.fell(scores([1, -1, 1]), criterion("C3").limits) == {"worse": False, "most": True}
    assert checks.fell(scores([0.1, 0.2]), criterion("C3").limits) == {"worse": True, "most": False}
    assert checks.gaps(intervals(8, 1), criterion("C2").limits) == {"final": True, "best": False}
    assert checks.gaps(intervals(np.nan, np.nan), criterion("C2").limits) == {"final": None, "best": None}
    assert checks.costs(costs(0.3, 0.01), criterion("C7").limits) == {"low": True, "near": None}
    assert checks.costs(costs(0.3, -0.1), criterion("C7").limits) == {"low": True, "near": False}
    assert set(checks.gaps(intervals(8, 4, 20), criterion("C2").limits).values()) == {None}
    assert checks.late_rise(runs([64], saturated=[True]), criterion("C1").limits) == {"narrow": True, "wide": None}


def test_one_rule_for_all_claims():
    assert judge.numbers({"a": True, "b": None}) == "reproduced"
    assert judge.numbers({"a": None}) == "not re-measured"
    assert judge.reading({"a": True, "b": False}) == "holds with a condition"
    assert judge.reading({"a": False}) == "refuted by a control"
    assert {judge.reading({"a": ok}, same_kind=False) for ok in (True, False)} == {"open"}
    assert [judge.above(*ends) for ends in ((1, 2), (-2, -1), (-1, 1), (np.nan, 1))] == [True, False, None, None]
    assert judge.reading({}) == "open"


def test_the_first_source_answers_and_the_others_stand_beside():
    narrow = runs([64, 128], saturated=[False, False])
    judged = verdicts.c1({P: runs(WIDTHS, saturated=[True, True, False, False]), OWN: narrow}, recipes(0.4))
    assert [e["numbers"] for e in judged["evidence"]] == ["reproduced", "not reproduced"]
    assert judged["numbers"] == "reproduced" and judged["reading"] == "holds with a condition"


def test_there_is_a_criterion_for_each_claim_and_no_other():
    for claim in CLAIMS:
        rule = criterion(claim)
        assert (
            rule.numbers
            and rule.reading
            and rule.control
            and "{" not in " ".join([*rule.numbers.values(), *rule.reading.values()])
        )
    with pytest.raises(ValueError, match="no criterion for 'C0': expected one of C1"):
        criterion("C0")
    with pytest.raises(ValueError, match="no judged claim, it lacks"):
        claims.verdict({"claim": "C1"})


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_criterion_is_what_its_commit_holds(claim):
    rule = criterion(claim)
    known = subprocess.run(["git", "cat-file", "-e", f"{rule.written}^{{commit}}"], cwd=ROOT, capture_output=True)
    if known.returncode:
        pytest.skip("this copy has no history")
    assert rule.changed, "commit the criterion, then write the commit into it"
    there = subprocess.run(
        ["git", "show", f"{rule.changed}:lib/data/criteria.toml"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    before = parse(claim, tomllib.loads(there.stdout)[claim])
    assert (before.numbers, before.reading, before.limits) == (rule.numbers, rule.reading, rule.limits)
