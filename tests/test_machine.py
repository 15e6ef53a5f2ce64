"""Which dtype this machine multiplies in, what is said of work that goes on, and how long it is said to take."""

import io
import json
import os
import pty
import re
import subprocess
import sys
import time

import pytest

from lib.run import estimate, machine, progress
from tests.bench.machine import SLOW


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("BOOK_CACHE", str(tmp_path))
    monkeypatch.delenv("BOOK_DTYPE", raising=False)


def speeds(float32, bfloat16):
    return {"products": {name: {"float32": float32, "bfloat16": bfloat16} for name in ("body", "head")}, "pace": 1.0}


def test_emulated_bf16_is_never_chosen():
    """Held to AVX2 any machine emulates bf16: the probe must see it, quickly, with nothing kept from another ISA."""
    program = (
        "import time, torch; from lib.run import machine as m; s = time.perf_counter(); print(m.dtype(), m.rates()"
    )
    program += "['products']['body'], time.perf_counter() - s, sep='|')"
    run = subprocess.run([sys.executable, "-c", program], env=os.environ | SLOW, capture_output=True, text=True)
    chosen, rates, seconds = run.stdout.strip().split("|")
    rates = json.loads(rates.replace("'", '"'))
    assert chosen == "float32" and rates["bfloat16"] < rates["float32"], run.stderr
    assert float(seconds) < 1.5  # 0.5 on a quiet machine


def test_the_choice_follows_the_rates_of_every_shape():
    assert machine.fastest(speeds(100, 400)["products"]) == "bfloat16"
    assert machine.fastest(speeds(100, 120)["products"]) == "float32"  # not worth making logits twice
    mixed = speeds(100, 400)["products"] | {"head": {"float32": 100, "bfloat16": 5}}
    assert machine.fastest(mixed) == "float32"


def test_a_parameter_beats_the_environment_and_both_beat_the_probe(monkeypatch):
    monkeypatch.setattr(machine, "rates", lambda device="cpu": speeds(100, 400))
    assert machine.dtype() == "bfloat16"
    monkeypatch.setenv("BOOK_DTYPE", "float32")
    assert machine.dtype() == "float32"
    assert machine.dtype("bfloat16") == "bfloat16"
    with pytest.raises(ValueError, match="float16.*expected auto, float32 or bfloat16"):
        machine.dtype("float16")
    monkeypatch.setenv("BOOK_DTYPE", "fp32")
    with pytest.raises(ValueError, match="BOOK_DTYPE"):
        machine.dtype()


def test_the_probe_is_made_once():
    first = machine.rates()
    assert machine.rates() == first
    assert len(list((machine.cache() / "machine").glob("*.json"))) == 1
    assert all(rate > 0 for by_dtype in first["products"].values() for rate in by_dtype.values())


def test_an_estimate_scales_with_the_machine_and_an_earlier_run_replaces_it(monkeypatch, tmp_path):
    costs = tmp_path / "costs.toml"
    costs.write_text(
        '[laptop]\nsuite = { gflop = 600, rest = 4, dtype = "float32" }\nheads = { gflop = 800, rest = 1 }'
    )
    monkeypatch.setattr(estimate, "COSTS", costs)
    monkeypatch.setattr(machine, "rates", lambda device="cpu": speeds(100, 400))
    cores = os.cpu_count()
    assert estimate.expected("laptop", "suite") == pytest.approx(600 / 100 / cores + 4)
    assert estimate.expected("laptop", "heads") == pytest.approx(800 / 400 / cores + 1)
    assert estimate.expected("laptop", "unknown") is None and estimate.expected("paper", "heads") is None
    estimate.remember("laptop", "heads", 50.0, [20.0, 30.0])
    estimate.remember("laptop", "heads", 3.0, [1.0, 2.0])  # read from records
    assert estimate.expected("laptop", "heads") == 50.0
    assert estimate.earlier("laptop", "heads")["cells"] == [20.0, 30.0]
    monkeypatch.setenv("BOOK_DTYPE", "float32")  # another way of working has times of its own
    assert estimate.expected("laptop", "heads") == pytest.approx(800 / 100 / cores + 1)


def test_a_watch_says_cell_task_and_what_is_left(tmp_path, monkeypatch):
    told = tmp_path / "told"
    watch = progress.Watch("05a_heads", 4, told, earlier=[1, 100, 20, 0], after=600, stream=io.StringIO())
    watch.begin(1)
    assert re.fullmatch(
        r"05a_heads: cell 2 of 4, 0 s, about (2 min 0 s|1 min 59 s) left \(12 min with the chapters that follow\)",
        watch.line(),
    )
    monkeypatch.setenv(progress.FILE, str(told))
    progress.tell("heads.trained", 1, 3)
    assert "heads.trained, task 2 of 3" in watch.line()
    progress.tell("heads.gap")
    assert "heads.gap, " in watch.line() and "task" not in watch.line()
    watch.begin(2)
    assert "heads" not in watch.line().removeprefix("05a_heads")
    fresh = progress.Watch("x", 2, told, earlier=[1.0], expected=None, stream=io.StringIO())  # of another text
    assert "left" not in fresh.line()


def test_work_goes_on_where_nobody_listens_any_more(tmp_path, monkeypatch):
    monkeypatch.setenv(progress.FILE, str(tmp_path / "gone" / "told"))
    progress.tell("heads.trained", 1, 3)
    assert not list(tmp_path.iterdir())


def test_a_pipe_gets_plain_lines_and_a_terminal_one_that_lives(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "PLAIN", 0.05)
    monkeypatch.setattr(progress, "TICK", 0.05)
    pipe = io.StringIO()
    with progress.Watch("x", 2, tmp_path / "told", stream=pipe):
        wait_for(lambda: "\n" in pipe.getvalue())
    assert pipe.getvalue().startswith("    x: cell 1 of 2") and "\r" not in pipe.getvalue()
    master, slave = pty.openpty()
    with os.fdopen(slave, "w") as terminal, progress.Watch("x", 2, tmp_path / "told", stream=terminal):
        seen = os.read(master, 200).decode()
    assert seen.startswith("\r\033[Kx: cell 1 of 2") and "\n" not in seen
    os.close(master)


def wait_for(condition, patience=5.0):
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (125, "2 min 5 s"), (1500, "25 min"), (6000, "1 h 40 min")]
)
def test_durations_are_for_people(seconds, text):
    assert progress.duration(seconds) == text
