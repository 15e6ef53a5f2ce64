"""Ctrl-C in the middle of a chapter: it stops at once, says what is kept, and the next run goes on from there."""

import os
import signal
import subprocess
import sys
import time

from lib.data.cache import cache
from tests.conftest import ROOT

SHARED = ("corpora", "machine", "models", "sources", "suite", "tokens")  # of the cache; records and states are its own
PATIENCE = 120


def records(folder):
    """Records of a cache: path -> when it was made."""
    return {path: path.stat().st_mtime_ns for path in (folder / "records").glob("*/*.record")}


def hear():
    """Let a process hear Ctrl-C though these tests run in the background of a shell, which turns that off."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_chapter_5_1_stopped_in_the_middle_goes_on_from_there(book, tmp_path):
    here = tmp_path / "cache"
    here.mkdir()
    for part in SHARED:
        (cache() / part).mkdir(exist_ok=True)
        (here / part).symlink_to(cache() / part)
    command = [sys.executable, "-m", "lib.run.chapter", "05a_rank_heads", "--profile", "smoke", "--out", tmp_path]
    settings = {"cwd": ROOT, "env": os.environ | {"BOOK_CACHE": str(here)}, "text": True}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    running = subprocess.Popen(command, preexec_fn=hear, **pipes, **settings)
    end = time.monotonic() + PATIENCE
    while len(records(here)) < 3:
        assert running.poll() is None and time.monotonic() < end
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    start = time.monotonic()
    _, said = running.communicate(timeout=PATIENCE)
    assert time.monotonic() - start < 3
    kept = records(here)
    assert running.returncode == 1
    last = said.strip().splitlines()[-1]
    assert last.startswith("stopped in 05a_rank_heads after") and f"{len(kept)} results made since the start" in last
    assert "Traceback" not in said
    again = subprocess.run(command, capture_output=True, check=True, **settings)
    assert "05a_rank_heads           ran" in again.stdout
    whole = records(here)
    assert {path: whole[path] for path in kept} == kept  # none of them is computed again
    assert len(whole) > len(kept)
