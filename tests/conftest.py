"""The book at toy size, built once for all tests that look at it."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import pytest
from filelock import FileLock

from lib.run import chapter

ROOT = Path(__file__).parents[1]


def run(*arguments, **environment):
    """Run a module of this project; its output, or the failing output as the test's message."""
    command = [sys.executable, "-m", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True)
    if done.returncode:
        pytest.fail(f"{' '.join(command[1:])}\n{done.stdout[-2000:]}{done.stderr[-6000:]}", pytrace=False)
    return done.stdout


@pytest.fixture(autouse=True)
def process():
    """What a test sets for its process, for kernels or for speed, ends with the test."""
    with mock.patch.dict(os.environ):
        yield
    if torch := sys.modules.get("torch"):
        torch.set_flush_denormal(False)


@pytest.fixture(scope="session")
def book(tmp_path_factory, worker_id):
    """Folder of the smoke book: notebooks/, source/, html/; a second process of the same tests finds it made."""
    out = ROOT / "_build" / "test"
    own = tmp_path_factory.getbasetemp()
    made = (own if worker_id == "master" else own.parent) / "book-made"  # the parent is shared by one run of tests

    def execute(source):
        run("lib.run.chapter", source, "--profile", "smoke", "--out", out, OMP_NUM_THREADS="1")

    with FileLock(made.with_suffix(".lock")), ThreadPoolExecutor(2) as two:
        if not made.exists():
            run("lib.data.sources", "fetch", "default")
            run("lib.train.suite", "--profile", "smoke")
            list(two.map(execute, chapter.chapters()))
            run("lib.run.book", "--profile", "smoke", "--out", out)
            made.touch()
    return out
