"""Where inputs are kept, and how a file or folder there comes to be: once, whole or not at all."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

ROOT = Path(__file__).resolve().parents[2]


def cache() -> Path:
    """Folder of everything fetched or derived: $BOOK_CACHE, or .cache at the root of the repository."""
    return Path(os.environ.get("BOOK_CACHE") or ROOT / ".cache")


def once(path: Path, make: Callable[[Path], None]) -> Path:
    """Return path; where it is absent, first let make(scratch) write it beside its place, then rename.

    Safe between processes: the second waits for the first. Raises OSError with one sentence on a full disk.
    """
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if not path.exists():
            scratch = path.with_name(f"{path.name}.new")
            _remove(scratch)  # left by a process that was killed
            try:
                make(scratch)
                os.replace(scratch, path)
            except OSError as error:
                if error.errno == errno.ENOSPC:
                    raise disk_full(path) from error
                raise
            finally:
                _remove(scratch)
    return path


def disk_full(path: Path, needed: int | None = None) -> OSError:
    """The error for a disk on which `needed` bytes do not fit."""
    amount = "" if needed is None else f" ({size(needed)} needed)"
    return OSError(f"no space left on the disk of {path.parent}{amount}: free some, or point BOOK_CACHE elsewhere")


def size(count: int) -> str:
    """A number of bytes for people: 93 MB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
