"""Sweeps on real clusters: every result exactly once, whatever dies."""

import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save

from lib.data.cache import ROOT
from lib.run import calls, cluster, cost, records, sweep
from lib.run.calls import call
from tests import sweep_tasks as tasks
from tests.hub_server import Hub, settle

SIX = [{"n": n} for n in range(6)]


class Cluster:
    """A scheduler and workers, each a process of its own, that share no cache with the client."""

    def __init__(self, folder):
        self.folder, self.workers, self.port = folder, [], free_port()
        self.address = f"tcp://127.0.0.1:{self.port}"
        self.start_scheduler()

    def start_scheduler(self):
        options = ["--host", "127.0.0.1", "--port", str(self.port), "--dashboard-address", ":0"]
        self.scheduler = self.start("distributed.cli.dask_scheduler", *options)

    def start_worker(self):
        options = ["--no-nanny", "--nthreads", "2", "--resources", "GPU=1", "--no-dashboard"]
        self.workers.append(self.start("distributed.cli.dask_worker", self.address, *options))

    def start(self, module, *options):
        environment = os.environ | {"BOOK_CACHE": str(self.folder / "cache")}
        with open(self.folder / "log", "a") as log:
            command = [sys.executable, "-m", module, *options, "--local-directory", str(self.folder / "scratch")]
            if "scheduler" in module:
                command = command[:-2]
            return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)

    def stop(self):
        for process in [*self.workers, self.scheduler]:
            process.kill()
            process.wait()


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory):
    running = Cluster(tmp_path_factory.mktemp("cluster"))
    running.start_worker()
    running.start_worker()
    yield running
    running.stop()


@pytest.fixture(autouse=True)
def client(tmp_path, monkeypatch):
    """The client's own cache, and no place but those that a test names."""
    monkeypatch.setenv("BOOK_CACHE", str(tmp_path / "cache"))
    for name in ("SCHEDULER", "WORKERS", "YES"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "made").mkdir()
    return str(tmp_path / "made")


def made(folder):
    """How often each point was computed."""
    return Counter(int(path.name.split("-")[0]) for path in Path(folder).glob("*-*-*"))


def assert_each_once(frame, points=6):
    """Every result is in the table and in one sound record."""
    assert frame["n"].tolist() == list(range(points)) and frame["square"].tolist() == [n * n for n in range(points)]
    kept = list(records.cache().glob("records/*/*"))
    assert len(kept) == points and {records.state(path)[0] for path in kept} == {"ok"}


def until(condition, seconds=60):
    """Wait for something that another process does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


def in_background(*arguments, **keywords):
    """A sweep in a thread; call the result to wait for its table."""
    outcome = {}

    def target():
        try:
            outcome["table"] = sweep.run(*arguments, **keywords)
        except Exception as error:
            outcome["error"] = error

    thread = threading.Thread(target=target)
    thread.start()

    def table():
        thread.join(timeout=120)
        if "error" in outcome:
            raise outcome["error"]
        return outcome["table"]

    return table


def test_product_varies_the_last_fastest_and_takes_whatever_is_a_list():
    plain = [{"a": a, "b": b} for a in (1, 2) for b in "xy"]
    for numbers, letters in ([1, 2], ["x", "y"]), (range(1, 3), ("x", "y")), (np.arange(1, 3), np.array(["x", "y"])):
        got = sweep.product(a=numbers, b=letters)
        assert got == plain and {type(point["a"]) for point in got} == {int}
    assert sweep.product(a=[1], b=[]) == []


@pytest.mark.parametrize("values", ["xy", 3, None, np.int64(3), np.array(3), {"x": 1}])
def test_product_of_one_value_or_text_is_refused(values):
    with pytest.raises(ValueError, match="the grid has .* for b: expected a list of values"):
        sweep.product(a=[1, 2], b=values)
    with pytest.raises(ValueError, match=r"parameter b holds \{1\} \(set\), which JSON does not"):
        sweep.product(b={1})


def test_numpy_points_are_the_plain_ones(client):
    table = sweep.run(tasks.square, [{"n": n} for n in np.arange(6)], folder=client)
    pd.testing.assert_frame_equal(table, sweep.run(tasks.square, (point for point in SIX), folder=client))
    assert_each_once(table)
    assert made(client) == Counter(range(6))


def test_in_this_process_and_again_from_records(client):
    first = sweep.run(tasks.square, SIX, folder=client)
    assert_each_once(first)
    pd.testing.assert_frame_equal(sweep.run(tasks.square, SIX + SIX[:1], folder=client)[:6], first)
    assert sweep.run(tasks.square, [{"n": 9}, {"n": 2}], folder=client)["square"].tolist() == [81, 4]
    assert made(client) == Counter([*range(6), 9])


def test_frames_are_joined_behind_the_parameters():
    table = sweep.run(tasks.rows, SIX[::-1])
    assert list(table) == ["n", "rank", "value"] and len(table) == 60
    assert table["n"].tolist() == [n for n in reversed(range(6)) for _ in range(10)]
    assert table["value"].tolist() == [n / 7 for n in table["n"]]


def test_wrong_sweeps_get_one_sentence(client):
    with pytest.raises(ValueError, match="grid of the sweep is empty"):
        sweep.run(tasks.square, [], folder=client)
    with pytest.raises(ValueError, match="can't be called so: missing a required argument: 'n'; it takes"):
        sweep.run(tasks.square, [{"n": 1}, {"m": 2}], folder=client)
    for grid in ([1, 2], {"n": [1]}, ["n"], "n", pd.DataFrame(SIX)):
        with pytest.raises(ValueError, match=r"the grid holds .*: expected points, each a dictionary"):
            sweep.run(tasks.square, grid, folder=client)
    with pytest.raises(ValueError, match="folder is in the grid and fixed as well"):
        sweep.run(tasks.square, [{"n": 1, "folder": "x"}], folder=client)
    assert not made(client)


def test_a_point_that_leaves_a_parameter_out_has_its_default():
    table = sweep.run(tasks.nap, [{"n": 1}, {"n": 2, "seconds": 0.001}])
    assert table["seconds"].tolist() == [0.01, 0.001] and table["n"].tolist() == [1, 2]


@pytest.mark.parametrize("place", [{}, {"workers": 1}])
def test_whatever_a_task_raises_is_one_line(place):
    ways = ["empty", "blank", "lines", "mute", "sticky", "exit"]
    with pytest.raises(sweep.SweepError) as caught:
        sweep.run(tasks.unwell, sweep.product(how=[*ways, "fine"]), **place)
    head, *lines = str(caught.value).splitlines()
    assert head.startswith("6 of 7 tasks failed")
    told = dict(re.fullmatch(r".*unwell\(how=(\w+)\): (.*) \(sweep_tasks.py:\d+\)", line).groups() for line in lines)
    assert told.pop("sticky").startswith("Sticky: ('of glue', <function")
    assert told == {
        "empty": "ValueError: no message",
        "blank": "ValueError: no message",
        "lines": "ValueError: one two",
        "mute": "Mute: no message",
        "exit": "SystemExit: enough",
    }
    assert calls.reason(KeyError("never raised")) == "KeyError: 'never raised'"


def test_a_script_that_lacks_its_guard_is_told_once(client, tmp_path):
    body = f"print(len(sweep.run(tasks.square, [{{'n': 1}}, {{'n': 2}}], folder={client!r}, workers=2)), 'rows')\n"
    head = "from lib.run import sweep\nfrom tests import sweep_tasks as tasks\n"

    def ended(text):
        script = tmp_path / "script.py"
        script.write_text(head + text)
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        return subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, timeout=120)

    without, guarded = ended(body), ended(f"if __name__ == '__main__':\n    {body}")
    assert (without.returncode, without.stdout) == (1, "")
    assert len(without.stderr.splitlines()) < 30 and without.stderr.count("Traceback") == 1
    told = without.stderr.splitlines()[-1]
    assert told.startswith("ValueError: the workers did not start (") and told.endswith('`if __name__ == "__main__":`')
    assert (guarded.returncode, guarded.stdout) == (0, "2 rows\n")
    assert made(client) == Counter([1, 2])


@pytest.mark.parametrize("where", ["here", "workers"])
def test_a_failed_task_is_named_at_the_end_and_loses_no_other(client, two_workers, where):
    place = {} if where == "here" else {"scheduler": two_workers.address}
    named = r"1 of 6 tasks failed.*\n.*fragile\(.*n=2\): ValueError: two is not allowed \(sweep_tasks.py:"
    with pytest.raises(sweep.SweepError, match=named):
        sweep.run(tasks.fragile, SIX, folder=client, **place)
    rest = [point for point in SIX if point["n"] != 2]
    assert len(sweep.run(tasks.fragile, rest, folder=client)) == 5
    assert made(client) == Counter(range(6))


def test_results_travel_to_the_client(client, two_workers, monkeypatch):
    monkeypatch.setenv("SCHEDULER", two_workers.address)
    monkeypatch.setenv("BOOK_COMMAND", "make book PROFILE=paper")
    table = sweep.run(tasks.square, SIX, folder=client)
    assert_each_once(table)
    assert not list((two_workers.folder / "cache").rglob("*.record"))
    assert set(records.provenance()["command"][-6:]) == {"make book PROFILE=paper"}
    sweep.run(tasks.square, SIX, folder=client)
    assert made(client) == Counter(range(6))


def test_one_gpu_a_task(client, two_workers):
    table = sweep.run(tasks.alone, SIX * 2, folder=client, scheduler=two_workers.address)
    assert len(table) == 12
    with pytest.raises(ValueError, match="no worker of tcp.* offers QPU=1: start them with --resources 'QPU=1'"):
        sweep.run(tasks.square, SIX, folder=client, scheduler=two_workers.address, resources={"QPU": 1})


def test_started_twice_at_once(client, two_workers):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        both = [pool.apply_async(run_square, (client, two_workers.address)) for _ in range(2)]
        tables = [pd.DataFrame(result.get(timeout=120)) for result in both]
    for table in tables:
        assert_each_once(table, 60)


def run_square(folder, address):
    """In a process of its own."""
    return sweep.run(tasks.square, [{"n": n} for n in range(60)], folder=folder, scheduler=address).to_dict("list")


def test_a_worker_killed_in_mid_task(client, two_workers):
    table = in_background(tasks.held, SIX, folder=client, at=3, scheduler=two_workers.address)
    until(lambda: 3 in made(client))
    pid = next(int(path.name.split("-")[1]) for path in Path(client).glob("3-*"))
    victim = next(worker for worker in two_workers.workers if worker.pid == pid)
    victim.send_signal(signal.SIGKILL)
    until(lambda: made(client)[3] == 2)  # the other worker has taken it over
    Path(client, "go").touch()
    assert_each_once(table())
    victim.wait()
    two_workers.workers.remove(victim)
    two_workers.start_worker()


def test_the_scheduler_restarted(client, tmp_path):
    running = Cluster(tmp_path)
    try:
        running.start_worker()
        table = in_background(tasks.held, SIX, folder=client, at=5, scheduler=running.address)
        until(lambda: len(list((tmp_path / "cache").rglob("*.record"))) == 5)  # all but the one that is held
        running.stop()
        running.start_scheduler()
        running.start_worker()
        until(lambda: made(client)[5] == 2)
        Path(client, "go").touch()
        assert_each_once(table())
        assert made(client) == Counter([*range(6), 5])
    finally:
        running.stop()


def test_local_workers_share_the_threads_and_survive_a_task_that_kills_them(client):
    table = sweep.run(tasks.square, SIX, folder=client, workers=2)
    assert_each_once(table)
    assert set(table["threads"]) == {max(1, os.cpu_count() // 2)}
    with pytest.raises(sweep.SweepError, match=r"1 of 6 .*\n.*deadly\(.*n=1\): KilledWorker: "):
        sweep.run(tasks.deadly, SIX, folder=client, workers=2, retries=1)
    assert len(sweep.run(tasks.deadly, [p for p in SIX if p["n"] != 1], folder=client)) == 5


def test_no_scheduler_is_one_sentence(client, monkeypatch):
    monkeypatch.setattr(cluster, "PATIENCE", "1s")
    with pytest.raises(OSError, match="no Dask scheduler answers at tcp://127.0.0.1:.*: start one there"):
        sweep.run(tasks.square, SIX, folder=client, scheduler=f"tcp://127.0.0.1:{free_port()}")


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"WORKERS": "abc"}, r"number of workers \(in the environment, WORKERS\) is 'abc': expected 0, 1, 2"),
        ({"WORKERS": "-1"}, "number of workers .* is '-1'"),
        ({"WORKERS": "1.5"}, "number of workers .* is '1.5'"),
        ({"WORKERS": "2", "SCHEDULER": "tcp://head:8786"}, "choose one of them"),
        (
            {"SCHEDULER": "nonsense"},
            "'nonsense' is no scheduler .*missing port.*: expected a place as in tcp://head:8786",
        ),
        ({"SCHEDULER": "http://head:8786"}, "'http://head:8786' is no scheduler .*unknown address scheme"),
        ({"SCHEDULER": "tcp://head:abc"}, "'tcp://head:abc' is no scheduler"),
        ({"YES": "no"}, "YES is 'no' in the environment: expected 1 or 0"),
    ],
)
def test_places_that_are_none_get_one_sentence(client, monkeypatch, environment, sentence):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=sentence):
        sweep.run(tasks.square, SIX, folder=client)
    assert not made(client)


@pytest.mark.parametrize("workers", [-1, 1.5, True, "two"])
def test_a_number_of_workers_that_is_none(client, workers):
    with pytest.raises(ValueError, match="number of workers .* is "):
        sweep.run(tasks.square, SIX, folder=client, workers=workers)


def test_what_the_call_says_goes_before_the_environment(client, monkeypatch):
    monkeypatch.setenv("SCHEDULER", "nonsense")
    assert_each_once(sweep.run(tasks.square, SIX, folder=client, workers=0))
    assert len(list(Path(client).glob(f"*-{os.getpid()}-*"))) == 6


def test_a_worker_with_other_code_or_packages_refuses(client):
    wanted = call(tasks.square, {"n": 1, "folder": client})
    assert "another version of tests.sweep_tasks: give it the same commit" in cluster.work(replace(wanted, code=""), "")
    other = replace(wanted, versions=wanted.versions | {"torch": "0.1"})
    assert "not 0.1: install constraints.txt" in cluster.work(other, "")
    assert not made(client)


def test_a_high_cost_needs_a_yes(client, monkeypatch):
    monkeypatch.setattr(cost, "HOURS", 0)
    with pytest.raises(ValueError, match="this sweep needs 6 tasks, .* about .* CPU-hours, more than .*: say --yes"):
        sweep.run(tasks.nap, SIX, seconds=0.002)
    assert len(list(records.cache().rglob("*.record"))) == 1  # the one that was measured
    told = []
    assert len(sweep.run(tasks.nap, SIX, seconds=0.002, yes=True, announce=told.append)) == 6
    assert [one.tasks for one in told] == [5] and told[0].seconds >= 5 * 0.002
    with pytest.raises(ValueError, match=r"at most 30.0 GB to download, an unknown time, more than the 20.0 GB"):
        cost.Cost(3, 30_000_000_000, None, "GPU").check(yes=False)


def test_cost_grows_with_the_checkpoints_unless_their_sizes_are_unknown():
    meter = cost.Meter({"small": 1_000, "large": 9_000}, "GPU")
    assert meter.cost().seconds is None and meter.cost().bytes == 10_000
    meter.measured("small", 2.0)
    assert meter.cost().seconds == pytest.approx(20.0)
    partly_cached = cost.Meter({"small": 0, "large": 9_000}, "GPU")
    partly_cached.measured("small", 2.0)
    assert partly_cached.cost().seconds == pytest.approx(4.0)


def test_downloads_ask_once_for_a_repository_and_count_the_hub_alone(tmp_path):
    hub = Hub()
    config = b'{"model_type": "gpt_neox", "vocab_size": 8, "hidden_size": 8, "num_attention_heads": 1}'
    files = {"config.json": config, "model.safetensors": save({"embed_out.weight": np.ones((8, 150))})}
    for step in ("step1", "step2", "step3"):
        hub.model("org/tiny").add(step, files)
    addresses = ["org/tiny@step1", "org/tiny@step2", "org/tiny@step3", "suite:nano-8-seed0@step0", "./mine", None]
    environment = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path), "BOOK_CACHE": str(tmp_path), "NO_PROXY": "*"}
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), settle, (environment,)) as process:
        sizes = process.submit(sizes_of, addresses).result(timeout=120)
    hub.close()
    assert sizes == [len(files["model.safetensors"])] * 3 + [0, 0, 0]
    assert not [request for request in hub.requests if "step2" in request.path]


def sizes_of(addresses):
    """In a process of its own: huggingface_hub reads its settings once."""
    known = {("address", address): "" for address in addresses}
    found = [calls.named("tests.sweep_tasks:square", {"address": address}, known) for address in addresses]
    sizes = cost.downloads(found)
    return [sizes[wanted.key] for wanted in found]


def test_command_line(client, tmp_path, monkeypatch, capsys):
    grid, out = tmp_path / "grid.yml", tmp_path / "out.csv"
    grid.write_text(f"grid: {{n: [1, 2], folder: [{client}]}}")

    def command(*options):
        monkeypatch.setattr(sys, "argv", ["sweep", *options])
        sweep.main()
        return capsys.readouterr().out

    task = "tests.sweep_tasks:fragile"
    assert command(task, str(grid), "--dry-run").startswith("0 of 2 are recorded; the rest: 2 tasks, at most 0.0 MB")
    with pytest.raises(SystemExit, match=r"error: 1 of 2 tasks failed.*\n.*two is not allowed"):
        command(task, str(grid), "--out", str(out))
    assert not out.exists()
    grid.write_text(f"grid: [{{n: 1}}, {{n: 3}}]\nfixed: {{folder: {client}}}")
    assert "2 points, 2 rows" in command(task, str(grid), "--out", str(out))
    assert pd.read_csv(out)["square"].tolist() == [1, 9]
    with pytest.raises(SystemExit, match="error: there is no chapter 'nowhere'"):
        command("nowhere")
    grid.write_text(f"grid: {{n: [010, 1_000]}}\nfixed: {{folder: {client}}}")
    deep = tmp_path / "a" / "b" / "out.csv"
    command(task, str(grid), "--out", str(deep))
    assert pd.read_csv(deep)["n"].tolist() == [10, 1000]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("points: []", "a function needs a YAML file of grid:"),
        ("", "a function needs a YAML file of grid:"),
        ("grid: [", "this is not YAML in line 1"),
        ("grid: {n: [1], n: [2]}", "this is not YAML in line 1: a name given twice"),
        ("grid: {n: 3}", "the grid has 3 for n: expected a list of values"),
        ("grid: {n: abc}", "the grid has 'abc' for n: expected a list of values"),
        ("grid: {n: }", "the grid has '' for n: expected a list of values"),
        ("grid: {1: [2]}", "can't be called so: .*missing a required argument: 'n'"),
        ("grid: 3", "grid.yml: grid holds values by parameter, or a list of points"),
        ("grid: text", "grid.yml: grid holds values by parameter, or a list of points"),
        ("grid: [1, 2]", "the grid holds 1: expected points"),
        ("grid: []", "the grid of the sweep is empty"),
        ("grid: [{n: 1}]\nfixed: [folder]", "fixed a value by parameter"),
        ("grid: [{n: 1}]\nfixed: {n: 2, folder: x}", "n is in the grid and fixed as well"),
        (
            "grid: [{n: 1}]\nfixed: {folder: x, workers: 2, yes: true}",
            "grid.yml fixes workers, yes, which is the sweep's",
        ),
    ],
)
def test_grids_in_files_that_say_nothing_certain(tmp_path, monkeypatch, text, sentence):
    (tmp_path / "grid.yml").write_text(text)
    monkeypatch.setattr(sys, "argv", ["sweep", "tests.sweep_tasks:square", str(tmp_path / "grid.yml")])
    with pytest.raises(SystemExit, match=f"^error: .*{sentence}"):
        sweep.main()
