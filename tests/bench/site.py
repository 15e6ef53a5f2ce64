"""Seconds of the site build, its size, and of `make book` with nothing to do; needs a book that was made before."""

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
        files = [path for path in (Path(folder) / "html").rglob("*") if path.is_file()]
        pages = {path.name: path.stat().st_size / 1e6 for path in files if path.suffix == ".html"}
        whole = sum(path.stat().st_size for path in files) / 1e6
    row("site from executed chapters, cold (s)", f"{cold:.1f}", "under 20", cold < 20)
    largest = max(pages, key=pages.get)
    row("largest page (MB)", f"{largest} {pages[largest]:.2f}", "under 1.5", pages[largest] < 1.5)
    row("all of the site (MB)", f"{whole:.1f}", "under 25", whole < 25)
    again = seconds(["make", "book"])
    row("make book, nothing changed (s)", f"{again:.1f}", "under 20", again < 20)


if __name__ == "__main__":
    main()
