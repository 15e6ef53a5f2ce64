"""Tasks that the tests of sweeps give to workers; each computation leaves a file `N-PID-TIME` in its folder."""

import os
import signal
import time
from pathlib import Path

import pandas as pd


def square(n: int, folder: str) -> dict:
    """One number."""
    _mark(folder, n)
    return {"square": n * n, "threads": int(os.environ.get("OMP_NUM_THREADS", 0))}


def held(n: int, folder: str, at: int) -> dict:
    """Waits at one point of the grid until it is let go."""
    _mark(folder, n)
    while n == at and not Path(folder, "go").exists():
        time.sleep(0.01)
    return {"square": n * n}


def fragile(n: int, folder: str) -> dict:
    """Fails at 2."""
    _mark(folder, n)
    if n == 2:
        raise ValueError("two is not allowed")
    return {"square": n * n}


def deadly(n: int, folder: str) -> dict:
    """Kills its worker at 1."""
    _mark(folder, n)
    if n == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"square": n * n}


class Mute(Exception):
    """Can't be told."""

    def __str__(self):
        raise RuntimeError("no words")


class Sticky(Exception):
    """Can't be sent."""

    def __init__(self):
        super().__init__("of glue", lambda: None)


def unwell(how: str) -> dict:
    """Fails in one of several ways, or is fine."""
    errors = {
        "empty": ValueError(),
        "blank": ValueError("\n"),
        "lines": ValueError("one\n\n  two\n"),
        "mute": Mute(),
        "sticky": Sticky(),
        "exit": SystemExit("enough"),
    }
    if how in errors:
        raise errors[how]
    return {"how": how}


def alone(n: int, folder: str, device: str = "cuda") -> dict:
    """Fails when another task of the same process is inside."""
    guard = Path(folder, f"inside-{os.getpid()}")
    os.close(os.open(guard, os.O_CREAT | os.O_EXCL))
    time.sleep(0.02)
    guard.unlink()
    return {"square": n * n}


def nap(n: int, seconds: float = 0.01) -> dict:
    """Takes a known time."""
    time.sleep(seconds)
    return {"value": n / 7}


def rows(n: int) -> pd.DataFrame:
    """Ten rows."""
    return pd.DataFrame({"rank": range(10), "value": [n / 7] * 10})


def _mark(folder, n):
    Path(folder, f"{n}-{os.getpid()}-{time.time_ns()}").touch()


def frame(n: int, many: list, folder: str, dtype: str = "float32") -> pd.DataFrame:
    """A row for each of several values."""
    _mark(folder, n)
    return pd.DataFrame({"value": many})
