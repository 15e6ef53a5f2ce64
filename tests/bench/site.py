"""Seconds of the site build, and of `make book` with nothing to do; needs a book that was made before."""

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.bench import row

BOOK = Path("_build")


def seconds(command):
    """Wall time of a command that must succeed."""
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def main():
    """Print a line for each target."""
    if not (BOOK / "notebooks").exists():
        sys.exit("error: there is no book to build a site from; run make book first")
    with tempfile.TemporaryDirectory(dir=BOOK) as folder:
        shutil.copytree(BOOK / "notebooks", Path(folder) / "notebooks")
        code = f"from pathlib import Path; from lib.run import book; book.build(Path({folder!r}))"
        cold = seconds([sys.executable, "-c", code])
    row("site from executed chapters, cold (s)", f"{cold:.1f}", "under 20", cold < 20)
    again = seconds(["make", "book"])
    row("make book, nothing changed (s)", f"{again:.1f}", "under 20", again < 20)


if __name__ == "__main__":
    main()
