"""The book at toy size, built once for all tests that look at it."""

import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

ROOT = Path(__file__).parents[1]


def run(*arguments):
    """Run a module of this project; its output, or the failing output as the test's message."""
    done = subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.fail(f"python -m {' '.join(arguments)}\n{done.stdout[-2000:]}{done.stderr[-6000:]}", pytrace=False)
    return done.stdout


@pytest.fixture(autouse=True)
def process():
    """What a test sets for its process, for kernels or for speed, ends with the test."""
    with mock.patch.dict(os.environ):
        yield
    if torch := sys.modules.get("torch"):
        torch.set_flush_denormal(False)


@pytest.fixture(scope="session")
def book():
    """Folder of the smoke book: notebooks/, source/, html/."""
    run("lib.data.sources", "fetch", "default")
    run("lib.train.suite", "--profile", "smoke")
    run("lib.run.book", "--profile", "smoke", "--out", "_build/test")
    return ROOT / "_build" / "test"
