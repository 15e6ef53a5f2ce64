"""Records: the same result again, and never a wrong one."""

import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lib.data.cache import ROOT
from lib.run import calls, code, records, results
from lib.run.calls import call

TASKS = """
import os, time
from pathlib import Path
import numpy as np, pandas as pd
from recorded_helper import SCALE

def count(folder):  # each call leaves a file, so that a test can see how often it was made
    Path(folder, f"{os.getpid()}-{time.time_ns()}").touch()

def frame(folder, n=3, scale=1.0):
    count(folder)
    return pd.DataFrame({"n": range(n), "value": [scale * SCALE] * n})

def numbers(folder, n=3):
    count(folder)
    return {"mean": np.float32(0.5), "n": n, "missing": None, "curve": [1.0, float("nan")]}

def arrays(folder, n=3):
    count(folder)
    return {"a": np.arange(n, dtype=np.float32), "b": np.eye(n)}

def slow(folder, ready):
    count(folder)
    Path(ready).touch()
    while not Path(ready + ".go").exists():
        time.sleep(0.01)
    return {"pid": os.getpid()}

def wide(folder):
    count(folder)
    return {"a": np.zeros(1_000_000)}

def wrong(folder, what):
    return {"objects": {"a": np.array([object()])}, "module": np, "keys": {1: 2}, "nested": {"a": {1, 2}},
            "frame": pd.DataFrame({"a": [object()]})}[what]
"""


@pytest.fixture
def tasks(tmp_path, monkeypatch):
    """A module of tasks with its own cache, and a folder in which each computation leaves a file."""
    (tmp_path / "recorded_tasks.py").write_text(TASKS)
    (tmp_path / "recorded_helper.py").write_text('"""Scale."""\nSCALE = 2\n')
    (tmp_path / "made").mkdir()
    monkeypatch.setenv("BOOK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("recorded_tasks", "recorded_helper"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import recorded_tasks

    return recorded_tasks


@pytest.fixture
def made(tmp_path):
    """How often anything was computed."""
    return lambda: len(list((tmp_path / "made").iterdir()))


def only(tmp_path):
    """The one record there is."""
    (path,) = (tmp_path / "cache" / "records").glob("*/*.record")
    return path


@pytest.mark.parametrize("name", ["frame", "numbers", "arrays"])
def test_computed_once_and_equal_the_second_time(tasks, tmp_path, made, name):
    function, folder = getattr(tasks, name), str(tmp_path / "made")
    first, second = (records.recall(function, folder=folder) for _ in range(2))
    assert made() == 1
    assert type(first) is type(second)
    if name == "frame":
        pd.testing.assert_frame_equal(first, second)
        assert first["value"].tolist() == [2, 2, 2]
    elif name == "numbers":
        assert str(first) == str(second) and first["mean"] == 0.5
    else:
        assert first["a"].dtype == np.float32 and all(np.array_equal(first[key], second[key]) for key in "ab")


def test_defaults_given_or_not_are_one_call_and_other_values_another(tasks):
    key = call(tasks.frame, {"folder": "x"}).key
    assert call(tasks.frame, {"folder": "x", "n": 3, "scale": 1.0}).key == key
    assert call(tasks.frame, {"folder": "x", "n": 4}).key != key
    assert call(tasks.numbers, {"folder": "x", "n": 3}).key != key


def test_a_flipped_byte_is_found_and_the_result_made_again(tasks, tmp_path, made):
    wanted = call(tasks.frame, {"folder": str(tmp_path / "made")})
    expected = records.recall(tasks.frame, folder=wanted.parameters["folder"])
    path = only(tmp_path)
    whole = path.read_bytes()
    for position in [*range(100), *range(100, len(whole), 11)]:
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        assert records.read(wanted) is None
    for cut in (b"", whole[:40], whole[:-1]):
        path.write_bytes(cut)
        pd.testing.assert_frame_equal(records.recall(tasks.frame, folder=wanted.parameters["folder"]), expected)
        assert records.state(only(tmp_path))[0] == "ok"
    assert made() == 4


def test_a_record_under_another_name_is_not_taken(tasks, tmp_path):
    records.recall(tasks.frame, folder=str(tmp_path / "made"))
    other = call(tasks.frame, {"folder": str(tmp_path / "made"), "n": 5})
    only(tmp_path).rename(records.place(other))
    assert records.read(other) is None


def test_code_counts_wherever_it_is_imported_from_and_comments_do_not(tasks, tmp_path):
    def key():
        return call(tasks.frame, {"folder": "x"}).key

    before, helper = key(), tmp_path / "recorded_helper.py"
    helper.write_text('"""Another explanation."""\n\nSCALE = 2  # twice\n')
    # the helper is a module of its own, outside the package of the task: as numpy is
    assert key() == before
    main = tmp_path / "recorded_tasks.py"
    main.write_text("# a comment\n" + TASKS)
    assert key() == before
    main.write_text(TASKS.replace("scale * SCALE", "scale + SCALE"))
    assert key() != before


def test_module_hash_follows_imports_and_data_files(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    sources = {
        "__init__": "", "a": "from hashed import b", "b": "def f():\n    from . import c", "c": "from .sub.d import x",
        "sub/__init__": "", "sub/d": "from pathlib import Path\nx = Path(__file__).with_name('d.json')", "e": "x = 1",
    }  # fmt: skip
    for name, text in sources.items():
        path = tmp_path / "hashed" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "hashed/sub/d.json").write_text("1")
    seen = code.module_hash("hashed.a")
    for name, matters in {"b.py": True, "c.py": True, "sub/d.py": True, "sub/d.json": True, "e.py": False}.items():
        path = tmp_path / "hashed" / name
        text = path.read_text()
        path.write_text(text + ("\ny = 2" if name.endswith("py") else " "))
        assert (code.module_hash("hashed.a") != seen) is matters, name
        assert code.package_hash("hashed") != code.package_hash("hashed.sub")
        path.write_text(text)
    assert code.module_hash("hashed.a") == seen and "hashed" not in sys.modules
    cells = "import hashed.a\nfrom hashed import e\nimport numpy"
    assert code.imported(cells, "hashed") == ["hashed", "hashed.a", "hashed.e"]
    with pytest.raises(ValueError, match="no source"):
        code.module_hash("hashed.missing")


def test_inputs_count(tasks, monkeypatch):
    fingerprints = {("corpus", "wiki-en"): "1", ("address", "suite:x@step1"): "a", ("addresses", "suite:x@step1"): "b"}
    parameters = {"corpus": "wiki-en", "address": "suite:x@step1", "addresses": ["suite:x@step1"] * 2, "corpora": None}
    first = calls.named("recorded_tasks:frame", parameters, fingerprints)
    assert first.inputs == {"corpus": "1", "address": "a", "addresses": ["b", "b"]}
    fingerprints["corpus", "wiki-en"] = "2"
    assert calls.named("recorded_tasks:frame", parameters, fingerprints).key != first.key


NOT_JSON = [
    object(), float("nan"), {1: 2}, Path("x"), {1, 2}, [(1, object())], b"x", 1j, float("-inf"), np.float32("nan"),
    np.array([1.0, np.inf]), np.complex64(1), np.datetime64("2024-01-01"), np.datetime64(1, "ns"), np.longdouble("0.1"),
    np.ones(2, np.longdouble), np.bytes_(b"x"), np.array([b"x"]), np.zeros(2, [("a", int)]), np.array([object()]),
    pd.Series([1]), pd.Timestamp("2024-01-01"),
]  # fmt: skip


@pytest.mark.parametrize("value", NOT_JSON, ids=lambda value: type(value).__name__)
def test_parameters_that_are_not_json_get_one_sentence(tasks, value):
    with pytest.raises(ValueError, match=r"^parameter n holds .* \(\w+\), which JSON does not: pass"):
        records.recall(tasks.frame, folder="x", n=value)


@pytest.mark.parametrize(
    ("value", "same"),
    [
        (np.int64(3), 3),
        (np.uint64(2**64 - 1), 2**64 - 1),
        (np.bool_(True), True),
        (np.float64(0.1), 0.1),
        (np.float32(0.1), 0.10000000149011612),
        (np.float16(0.1), 0.0999755859375),
        (np.str_("a"), "a"),
        (np.array(3), 3),
        (np.arange(3), [0, 1, 2]),
        (np.array([[0.5, 1.0]]), [[0.5, 1.0]]),
        (np.array([], int), []),
        (np.array(["a", None], object), ["a", None]),
        (np.array(["a"]), ["a"]),
        ((1, (2, np.int8(3))), [1, [2, 3]]),
        (range(2), [0, 1]),
        ({"a": np.arange(2)}, {"a": [0, 1]}),
    ],
    ids=repr,
)
def test_a_call_by_numpy_or_by_plain_values_is_one(tasks, value, same):
    one, other = (call(tasks.frame, {"folder": "x", "n": n}) for n in (value, same))
    assert one.key == other.key and repr(one.parameters["n"]) == repr(same)


@pytest.mark.parametrize("value", [3, ["wiki-en", None], {"a": 1}])
def test_names_of_models_and_corpora_are_text(value):
    with pytest.raises(ValueError, match="parameter corpora holds .*: expected names, as text"):
        calls.named("recorded_tasks:frame", {"corpora": value}, {("corpora", "wiki-en"): "1"})


def test_wrong_calls_get_one_sentence(tasks):
    with pytest.raises(ValueError, match="can't be called so: .*unexpected keyword argument 'm'; it takes"):
        records.recall(tasks.frame, folder="x", m=1)
    for function in (lambda: None, np.mean, "frame", pd.DataFrame.mean):
        with pytest.raises(ValueError, match="expected a function at the top of a module"):
            records.recall(function)


@pytest.mark.parametrize("what", ["objects", "module", "keys", "nested", "frame"])
def test_results_that_would_not_come_back_get_one_sentence_and_leave_nothing(tasks, tmp_path, what):
    with pytest.raises(ValueError, match="the result of recorded_tasks:wrong can't be recorded: "):
        records.recall(tasks.wrong, folder="x", what=what)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_two_processes_at_once_compute_once(tasks, tmp_path, made):
    ready = str(tmp_path / "ready")
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        both = [pool.apply_async(recall_slow, (str(tmp_path / "made"), ready)) for _ in range(2)]
        Path(ready + ".go").touch()
        pids = {result.get(timeout=60)["pid"] for result in both}
    assert made() == len(pids) == 1
    assert not list((tmp_path / "cache").rglob("*.lock"))


def recall_slow(folder, ready):
    """In a process of its own."""
    import recorded_tasks

    return records.recall(recorded_tasks.slow, folder=folder, ready=ready)


def test_killed_in_mid_task_leaves_nothing_and_does_not_block_the_next(tasks, tmp_path, made):
    ready = str(tmp_path / "ready")
    script = "import sys; from tests.test_records import recall_slow; recall_slow(*sys.argv[1:])"
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "made"), ready], cwd=ROOT)
    while not Path(ready).exists():
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list((tmp_path / "cache").rglob("*.record"))
    Path(ready + ".go").touch()
    assert records.recall(tasks.slow, folder=str(tmp_path / "made"), ready=ready) == {"pid": os.getpid()}
    assert made() == 2


def test_full_disk_is_one_sentence_and_nothing_half_written(tasks, tmp_path):
    script = """
        import resource, signal, sys, recorded_tasks as t
        from lib.run import records
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4_000_000, 4_000_000))  # a write past 4 MB fails, as on a full disk
        records.recall(t.wide, folder=sys.argv[1])
    """
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "made")], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "the record of recorded_tasks:wide (8.0 MB) can't be written to" in done.stderr.splitlines()[-1]
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.suffix in (".record", ".new")]


def test_provenance_is_readable_and_the_same_when_read_again(tasks, tmp_path, monkeypatch):
    monkeypatch.setenv("BOOK_COMMAND", "make chapter CH=x")
    monkeypatch.setattr(records, "_used", {})
    records.recall(tasks.frame, folder=str(tmp_path / "made"), n=2)
    first = records.provenance()
    about = json.loads(only(tmp_path).read_bytes().split(b"\n")[1])
    assert about["parameters"] == {"folder": str(tmp_path / "made"), "n": 2, "scale": 1.0}
    assert about["command"] == "make chapter CH=x" and about["versions"]["numpy"] == np.__version__
    monkeypatch.setattr(records, "_used", {})
    monkeypatch.setenv("BOOK_COMMAND", "another")
    records.recall(tasks.frame, folder=str(tmp_path / "made"), n=2)
    pd.testing.assert_frame_equal(records.provenance(), first)
    assert first["function"].tolist() == ["recorded_tasks.frame"]
    records.recall(tasks.frame, folder=str(tmp_path / "made"), n=3)
    records.recall(tasks.numbers, folder=str(tmp_path / "made"))
    counts = records.summary().groupby("function")["records"].sum()
    assert counts.to_dict() == {"recorded_tasks.frame": 2, "recorded_tasks.numbers": 1}


def test_listing_and_pruning(tasks, tmp_path, capsys, monkeypatch):
    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["records", *arguments])
        records.main()
        return capsys.readouterr().out

    for n in (1, 2, 3):
        records.recall(tasks.frame, folder=str(tmp_path / "made"), n=n)
    paths = sorted((tmp_path / "cache" / "records").glob("*/*.record"))
    paths[0].write_bytes(paths[0].read_bytes()[:-1])
    listed = command()
    assert listed.count(" ok ") == 2 and listed.count(" damaged ") == 1 and "recorded_tasks.frame(" in listed
    assert json.loads(command("show", paths[1].stem[:12]))["state"] == "ok"
    assert command("prune") == "1 of 3 records removed\n"
    (tmp_path / "recorded_tasks.py").write_text(TASKS + "\nx = 1")
    assert command().count(" stale ") == 2
    assert command("prune") == "2 of 2 records removed\n" and command() == ""


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), json_values))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_dictionary_of_json_comes_back_equal(value):
    assert results.decode(*results.encode(value)) == value
