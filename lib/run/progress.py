"""Work that can be seen: who computes tells what it is through a file, who waits shows it on one line.

On a terminal the line is alive; on a pipe or in CI there is a plain one a minute.
"""

import contextlib
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

FILE = "BOOK_PROGRESS"  # names the file through which a kernel tells the process that started it
TICK, PLAIN = 0.5, 60.0  # seconds between two looks on a terminal, and on a pipe


def tell(what: str, done: int = 0, total: int = 0) -> None:
    """Say what is being computed, and how many tasks of how many are done; nobody need be listening."""
    path = os.environ.get(FILE)
    if path:
        scratch = Path(f"{path}.{os.getpid()}")
        with contextlib.suppress(OSError):  # the folder goes with who listened, and work must not fail for it
            scratch.write_text(json.dumps([what, done, total]), encoding="utf-8")
            os.replace(scratch, path)


def duration(seconds: float) -> str:
    """Seconds for people: 8 s, 2 min 5 s, 1 h 40 min."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{rest} s"
    if minutes < 60:
        return f"{minutes} min {rest} s" if minutes < 10 else f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


class Watch:
    """A line on standard error for as long as a chapter runs: cell, task, seconds so far, and about how many are left.

    cells: how many there are; earlier: seconds of each in an earlier run, where there was one; expected: seconds in all
    where there was none; after: seconds of what follows the chapter.
    """

    def __init__(
        self,
        chapter: str,
        cells: int,
        file: Path,
        earlier: Sequence[float] = (),
        expected: float | None = None,
        after: float | None = None,
        stream=None,
    ):
        self.chapter, self.cells, self.file, self.after = chapter, cells, file, after
        self.earlier = list(earlier) if len(earlier) == cells else []
        self.expected = sum(self.earlier) if self.earlier else expected
        self.stream = stream or sys.stderr
        self.alive = self.stream.isatty()
        self.start, self.cell, self.cell_start = time.monotonic(), 0, time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._show, daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._ended.set()
        self._thread.join()
        if self.alive:
            self.stream.write("\r\033[K")
            self.stream.flush()

    def begin(self, cell: int) -> None:
        """Cell number `cell`, from 0, begins."""
        self.cell, self.cell_start = cell, time.monotonic()
        self.file.unlink(missing_ok=True)

    def line(self) -> str:
        """What there is to say now."""
        parts = [f"{self.chapter}: cell {self.cell + 1} of {self.cells}"]
        try:
            what, done, total = json.loads(self.file.read_text(encoding="utf-8"))
            parts.append(f"{what}, task {min(done + 1, total)} of {total}" if total else what)
        except (OSError, ValueError):  # nobody has told anything
            pass
        parts.append(duration(time.monotonic() - self.start))
        left = self._left()
        if left is not None:
            rest = "" if not self.after else f" ({duration(left + self.after)} with the chapters that follow)"
            parts.append(f"about {duration(left)} left{rest}")
        return ", ".join(parts)

    def _left(self):
        if self.earlier:
            here = time.monotonic() - self.cell_start
            return max(0.0, self.earlier[self.cell] - here) + sum(self.earlier[self.cell + 1 :])
        return None if self.expected is None else max(0.0, self.expected - (time.monotonic() - self.start))

    def _show(self):
        while not self._ended.wait(TICK if self.alive else PLAIN):
            if self.alive:
                self.stream.write("\r\033[K" + self.line()[: shutil.get_terminal_size().columns - 1])
            else:
                self.stream.write(f"    {self.line()}\n")
            self.stream.flush()
