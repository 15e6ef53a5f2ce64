"""Loss curves from files: columns found, bad rows named, ambiguity refused."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.data import curves
from lib.data.points import lines, points


@pytest.fixture
def read(tmp_path):
    """Writes a file and reads its only curve."""

    def write_and_read(text, name="run.csv", **options):
        (tmp_path / name).write_text(text)
        (curve,) = curves.read(tmp_path / name, **options)
        return curve

    return write_and_read


def table(header, rows=15, cells=lambda step: (step, 5 - step / 100)):
    return "\n".join([header, *(",".join(map(str, cells(step))) for step in range(rows))])


def both(step):
    """A loss of training and one of held-out text, told apart by a tenth."""
    return step, 5 - step / 100, 5.1 - step / 100


@pytest.mark.parametrize(
    ("header", "unit"),
    [
        ("step,loss", "step"),
        ("steps,val_loss", "step"),
        ("_step,eval/loss", "step"),
        ("global_step,train/loss", "step"),
        ("train/global_step,train/loss", "step"),
        ("iteration,nll", "step"),
        ("Step,gpt - small - train/loss", "step"),
        ("tokens,Validation Loss", "tokens"),
        ("Step,lm loss", "step"),
        ("epoch,loss", "epoch"),
    ],
)
def test_usual_names_are_known_in_any_order_of_columns(read, header, unit):
    step, loss = header.split(",")
    for text in (table(header), table(f"{loss},{step}", cells=lambda one: (5 - one / 100, one))):
        curve = read(text)
        assert curve.unit == unit and curve.axis == step and curve.column == loss and not curve.said
        assert np.array_equal(curve.steps, np.arange(15)) and np.allclose(curve.losses, 5 - np.arange(15) / 100)


def test_other_columns_do_not_count_as_losses(read):
    curve = read(table("loss_scale,step,aux_loss_weight,loss,lr", cells=lambda one: (2**16, one, 0.1, 3, 1e-4)))
    assert curve.column == "loss" and curve.axis == "step"


def test_tabs_semicolons_and_decimal_commas(read):
    assert read(table("step,loss").replace(",", "\t"), "run.tsv").losses[-1] == pytest.approx(4.86)
    assert np.allclose(read("step;loss\n1;2,5\n2;3,25\n3;3").losses, [2.5, 3.25, 3])


@pytest.mark.parametrize(
    "rows",
    [
        ["999;2,5", "1.000;3,25", "1.001;3,125"],
        ["999;2.5", "1,000;3.25", "1,001;3.125"],
        ["999,2.5", '"1,000",3.25', '"1,001",3.125'],
        ['999,"2,5"', '1000,"3,25"', '1001,"3,125"'],
    ],
)
def test_a_mark_between_thousands_is_told_from_a_decimal_one(read, rows):
    curve = read("\n".join(["step;loss" if ";" in rows[0] else "step,loss", *rows]))
    assert curve.steps.tolist() == [999, 1000, 1001] and curve.losses.tolist() == [2.5, 3.25, 3.125]


def test_a_tensorboard_export_names_no_loss(read):
    curve = read(table("Wall time,Step,Value", cells=lambda step: (1.7e9 + step, step, 5 - step / 100)))
    assert curve.axis == "Step" and curve.column == "Value" and len(curve.steps) == 15


def test_a_wandb_export_holds_one_run_for_each_name(tmp_path):
    names = [f"{run} - train/loss{end}" for run in ("seed - 1", "b") for end in ("", "__MIN", "__MAX")]
    header = ",".join(f'"{name}"' for name in ("Step", *names))
    path = tmp_path / "wandb.csv"
    path.write_text(table(header, cells=lambda step: [f'"{cell}"' for cell in (step, 5 - step / 100, 1, 9, 4, 1, 9)]))
    first, second = curves.read(path)
    assert (first.name, second.name) == ("seed - 1", "b") and first.losses[0] == 5 and set(second.losses) == {4}
    assert curves.read(path, loss="train/loss")[1].column == "b - train/loss"


def test_a_column_of_runs_tells_them_apart(tmp_path):
    path = tmp_path / "long.csv"
    path.write_text(
        "seed,step,loss\n" + "\n".join(f"{seed},{step},{3 + seed}" for seed in (0, 1) for step in range(20))
    )
    assert [(curve.name, curve.losses[0], len(curve.steps)) for curve in curves.read(path)] == [
        ("seed 0", 3, 20),
        ("seed 1", 4, 20),
    ]


def test_a_trainers_state(read):
    history = [entry for step in range(15) for entry in ({"step": step, "loss": 3.0}, {"step": step, "eval_loss": 4.0})]
    state = json.dumps({"log_history": [*history, {"step": 15, "train_loss": 3.5}], "best_metric": None})
    curve = read(state, "trainer_state.json")
    assert set(curve.losses) == {4.0} and "'eval_loss' with 15 values, not 'loss' with 15" in " ".join(curve.said)
    assert set(read(state, "trainer_state.json", loss="loss").losses) == {3.0}
    few = json.dumps({"log_history": [*history[::2], {"step": 9, "eval_loss": 3.9}]})
    assert read(few, "trainer_state.json").column == "loss"


def test_lines_of_json_may_be_nested_and_cut(read):
    text = "\n".join(json.dumps({"trainer": {"step": step}, "val": {"loss": 4.0}}) for step in range(15))
    curve = read(text + '\n{"trainer": {"st', "log.jsonl")
    assert len(curve.steps) == 15 and curve.said == ("Line 16 is no JSON: left out.",)
    text = "\n".join(f'{{"step": {step}, "loss": {loss}}}' for step, loss in enumerate((3, "NaN", "null", 2, 1)))
    curve = read(text, "a.jsonl")
    assert curve.losses.tolist() == [3, 2, 1] and curve.said == ("Lines 2 and 3 hold NaN as loss: left out.",)


def test_every_bad_row_is_named_with_what_was_done(read):
    rows = ["1,3", "2,nan", "3,0", "4,inf", "5,abc", "x,3", "6,-2", "7,", ",3", "-1,3", "8,2", "9,1.5", "10,1.4"]
    curve = read("\n".join(["step,loss", *rows]))
    assert curve.steps.tolist() == [1, 8, 9, 10] and curve.losses.tolist() == [3, 2, 1.5, 1.4]
    assert set(curve.said) == {
        "1 line without a value of this loss: passed over.",
        "Line 10 holds no step: left out.",
        "Line 7 holds text as step ('x'): left out.",
        "Line 11 holds a negative step: left out.",
        "Line 3 holds NaN as loss: left out.",
        "Line 6 holds text as loss ('abc'): left out.",
        "Line 5 holds an infinite loss: left out.",
        "Lines 4 and 8 hold a loss of zero or less: left out.",
    }


def test_unsorted_and_repeated_steps(read):
    curve = read("step,loss\n1,5\n3,4\n2,4.5\n4,3")
    assert curve.losses.tolist() == [5, 4.5, 4, 3]
    assert curve.said == ("Line 4 goes back in steps: rows sorted by step.",)
    curve = read("step,loss\n1,5\n2,4\n2,4.5\n3,3")
    assert curve.losses.tolist() == [5, 4.5, 3]
    assert curve.said == ("Line 4 repeats a step: of each step the last row counts.",)
    descending = read("\n".join(["step,loss", *(f"{step},{step + 1}" for step in range(20, 0, -1))]))
    assert descending.losses.tolist() == list(range(2, 22))


def test_a_resumed_run_replaces_what_it_wrote_before(read):
    first, second = [f"{step},5" for step in range(50)], [f"{step},4" for step in range(40, 80)]
    curve = read("\n".join(["step,loss", *first, *second]))
    assert curve.losses.tolist() == [5] * 40 + [4] * 40 and curve.steps.tolist() == list(range(80))
    (said,) = curve.said
    assert said == "At line 52 the run was resumed from step 40: 10 points of before (lines 42 to 51) replaced."
    (said,) = read("\n".join(["step,loss", *first, *first[:30]])).said
    assert "started over from step 0: 50 points of before (lines 2 to 51) replaced" in said


def test_two_losses_are_a_choice_or_an_error(read):
    with pytest.raises(ValueError, match="several losses, loss, train/loss: choose one with --loss-column"):
        read(table("step,loss,train/loss", cells=both))
    curve = read(table("step,loss,val_loss", cells=both))
    assert curve.column == "val_loss" and "not 'loss' with 15; --loss-column chooses another" in curve.said[0]
    assert read(table("step,loss,val_loss", cells=both), loss="loss").losses[0] == 5
    curve = read(table("tokens,step,loss", cells=lambda step: (step * 1000, step, 3)), step="tokens")
    assert curve.unit == "tokens" and curve.steps[-1] == 14_000
    assert "Steps are read from 'step' rather than 'tokens'" in read(table("tokens,step,loss", cells=both)).said[0]


@pytest.mark.parametrize(
    ("text", "name", "says"),
    [
        ("a,b\n1,2", "run.csv", "counts steps or tokens: it has a, b; name one with --step-column"),
        ("step,b\n1,2", "run.csv", "is called a loss: it has step, b; name one with --loss-column"),
        ("1,2\n2,3", "run.csv", "does not begin with the names of its columns: add a first line such as step,loss"),
        ("", "run.csv", "does not begin with the names"),
        ("step,loss\n", "run.csv", "holds no rows: expected a line of names and one for each step"),
        ("step,loss\n1,2\n2,3,4", "run.csv", "line 3 of .* has 3 fields where the first has 2: mend or remove it"),
        ("step,loss\n1,5,71\n2,5,66\n3,5,6", "run.csv", "line 2 of .* has more fields .* if the commas are decimal"),
        ("step;loss\n1.000;5,715\n2.000;5,666", "run.csv", "'5,715' and '1.000' in .* may be thousands or decimals"),
        ("step,loss_ppl,z_loss\n1,2,3", "run.csv", "is called a loss: it has step, loss_ppl, z_loss"),
        ("step,loss\n1,2\n2,nan\n3,4", "run.csv", "has 2 points .* expected at least 3; .*Line 3 holds NaN"),
        ("step,loss", "run.xlsx", "ends in .xlsx: expected a loss curve in .csv, .tsv"),
        ("loss,x\n1,2", "run.csv", "counts steps or tokens"),
        ("[" * 3000, "run.json", "is no whole JSON"),
        ('{"model_type": "gpt2"}', "config.json", "has no log_history: expected a trainer_state.json"),
        ('{"log_history": [{"st', "trainer_state.json", "is no whole JSON: it may have been cut"),
        ("step 1\nstep 2", "log.jsonl", "line 1 of .* is no JSON object: expected one on each line"),
    ],
)
def test_a_file_that_is_no_curve_is_refused_in_one_sentence(read, text, name, says):
    with pytest.raises(ValueError, match=says):
        read(text, name)


def test_what_is_no_text_or_no_file(tmp_path):
    (tmp_path / "run.csv").write_bytes(b"step,loss\n\xff\xfe\x00\x81")
    with pytest.raises(ValueError, match="is no text in UTF-8: export the curve again"):
        curves.read(tmp_path / "run.csv")
    with pytest.raises(ValueError, match="there is no file .*none.csv: expected a loss curve in"):
        curves.read(tmp_path / "none.csv")
    (tmp_path / "run.csv").write_text(table("step,loss"))
    with pytest.raises(ValueError, match="has no column 'nll': expected one of step, loss"):
        curves.read(tmp_path / "run.csv", loss="nll")
    with pytest.raises(ValueError, match="has 'step' for the loss and for the steps"):
        curves.read(tmp_path / "run.csv", loss="step")
    with pytest.raises(ValueError, match="no file but a folder is"):
        curves.read(tmp_path)


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path):
    paths = [tmp_path / seed / "run.csv" for seed in "ab"]
    for path in paths:
        path.parent.mkdir()
        path.write_text(table("step,loss"))
    assert [curve.name for curve in curves.read_all(paths)] == ["a/run", "b/run"]
    with pytest.raises(ValueError, match="a/run is there twice"):
        curves.read_all(paths[:1] * 2)
    paths[1].write_text(table("tokens,loss"))
    with pytest.raises(ValueError, match="count in step and in tokens: choose one for all"):
        curves.read_all(paths)


@pytest.mark.parametrize(
    ("losses", "failed"),
    [
        ("3 2 1 nan nan", 3),
        ("3 2 1 inf NaN", 3),
        ("3 nan 2 nan 1 nan", None),  # NaN stands for not measured
        ("3 nan 2 1 1", None),
        ("3 2 1 1 1", None),
    ],
)
def test_a_run_that_ends_without_a_finite_loss_failed(read, losses, failed):
    rows = [f"{step},{loss}" for step, loss in enumerate(losses.split())]
    assert read("\n".join(["step,loss", *rows])).failed == failed


@given(
    st.lists(
        st.tuples(
            st.one_of(st.integers(-3, 30).map(str), st.sampled_from(["", "x", "nan", "1e3", " 7 ", "inf"])),
            st.one_of(st.floats(-1, 9).map(str), st.sampled_from(["", "text", "NaN", "None", "-inf", "0", "1e400"])),
        ),
        max_size=40,
    )
)
@settings(max_examples=150, deadline=None)
def test_whatever_a_log_holds_gives_a_curve_or_sentences(rows):
    cells = pd.DataFrame(rows, columns=["step", "loss"], dtype=str)
    found, said = points(cells.step, cells.loss)
    steps, losses = found.index.to_numpy(float), found.to_numpy()
    assert (np.diff(steps) > 0).all() and (steps >= 0).all() and (losses > 0).all() and np.isfinite(losses).all()
    assert all(np.isfinite(steps)) and (said or len(found) == len(rows))


def test_rows_in_words():
    assert lines([3]) == "Line 3" and lines([3, 4]) == "Lines 3 and 4"
    assert lines(range(3, 1201)) == "Lines 3 to 1,200"
    assert lines([3, 4, 5, 9, 20, 31, 41, 51, 61]) == "Lines 3 to 5, 9, 20, 31, 41 and 2 more"
    assert lines([1, 5], "entry") == "Entries 1 and 5"
