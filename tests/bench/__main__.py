"""Every topic in a process of its own, into one table, `book/bench.json`: python -m tests.bench [TOPIC ...]

The processor's own limits are measured before and after. A few topics by name print their lines and write no table.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from lib.data.cache import ROOT
from lib.run import machine, records
from tests.bench import ROWS

TABLE = ROOT / "book" / "bench.json"
LIMITS = "limits"


def topics():
    """Names of the modules beside this one, without the limits."""
    names = sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))
    return [name for name in names if name != LIMITS]


def measured(topic):
    """The lines of one topic; where it fails, one more that says so."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows.jsonl")
        path.touch()
        done = subprocess.run([sys.executable, "-m", f"tests.bench.{topic}"], env=os.environ | {ROWS: str(path)})
        rows = [{"topic": topic} | json.loads(line) for line in path.read_text().splitlines()]
    failed = {"topic": topic, "what": "stopped", "measured": f"exit {done.returncode}", "target": "", "ok": False}
    return [*rows, failed] if done.returncode else rows


def main(names):
    """Run the topics; write the table where all were asked for. Exits with 1 where a target is missed."""
    if unknown := sorted(set(names) - {LIMITS, *topics()}):
        sys.exit(f"error: there is no topic {', '.join(unknown)}: expected some of {', '.join([LIMITS, *topics()])}")
    start = time.perf_counter()
    parts = [measured(topic) for topic in (names or [LIMITS, *topics()])]
    after = [] if names else [row | {"what": f"{row['what']}, afterwards"} for row in measured(LIMITS)]
    rows = [row for part in [*parts, after] for row in part]
    if not names:
        about = {
            "processor": machine.processor(),
            "finished": datetime.now(UTC).isoformat(timespec="minutes"),
            "minutes": round((time.perf_counter() - start) / 60, 1),
            "versions": {name: version(name) for name in ("torch", "numpy", "scipy")},
            "commit": records.commit(),
        }
        TABLE.write_text(json.dumps(about | {"rows": rows}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"{TABLE.relative_to(ROOT)}: {len(rows)} lines")
    if missed := [row["what"] for row in rows if not row["ok"]]:
        sys.exit(f"{len(missed)} of {len(rows)} miss their target: {'; '.join(missed)}")


if __name__ == "__main__":
    main(sys.argv[1:])
