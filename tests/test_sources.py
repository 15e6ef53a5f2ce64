"""Archives come from an index that pip is configured for: a small one here, on loopback, that can be made to fail."""

import gzip
import hashlib
import http.server
import io
import os
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lib.data import sources

BODY = os.urandom(300_000)


@dataclass
class Index:
    """Files by name, and what goes wrong with them."""

    files: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    cut: int = 0  # connections to cut half-way through a file
    url: str = ""


def _handler(index: Index) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            name = self.path.rsplit("/", 1)[1]
            if name:
                index.requests.append((name, self.headers.get("Range")))
            if not name:
                package = self.path.split("/")[-2].replace("-", "_")
                links = "".join(f'<a href="/files/{file}">{file}</a>' for file in index.files if package in file)
                self.answer(200, f"<!DOCTYPE html><html><body>{links}</body></html>".encode(), "text/html")
            elif name in index.files:
                body = index.files[name]
                start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
                self.answer(206 if start else 200, body[start:], "application/octet-stream")
            else:
                self.answer(404, b"", "text/plain")

        def answer(self, status: int, body: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if index.cut and kind == "application/octet-stream":
                index.cut -= 1
                self.wfile.write(body[: len(body) // 2])
                self.close_connection = True
            else:
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    served = Index()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(served))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    served.url = f"http://127.0.0.1:{server.server_port}/simple/"
    _configure(monkeypatch, served.url)
    monkeypatch.setenv("BOOK_CACHE", str(tmp_path / "cache"))
    yield served
    server.shutdown()
    server.server_close()


def _configure(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", url)


def wheel(**members: bytes) -> bytes:
    """A zip archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, body in members.items():
            archive.writestr(name, body)
    return buffer.getvalue()


def table(tmp_path: Path, archive: bytes, **changed: object) -> Path:
    """A table with one source, `demo`, pinned to that archive."""
    pin = {
        "package": "demo",
        "version": "1.0",
        "file": "demo-1.0-py3-none-any.whl",
        "sha256": hashlib.sha256(archive).hexdigest(),
        "bytes": len(archive),
    } | changed
    entry = {"kind": "text", "about": "", "licence": "", "default": True, "unpacked": 10, "members": ["kept/*"]}
    entry |= {name: pin.pop(name) for name in list(pin) if name in entry or name in ("terms", "consent")}
    lines = [
        "[demo]",
        *(f"{key} = {_toml(value)}" for key, value in entry.items()),
        "[[demo.archives]]",
        *(f"{key} = {_toml(value)}" for key, value in pin.items()),
    ]
    path = tmp_path / "table.toml"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def _toml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def nothing_unpacked(tmp_path: Path) -> bool:
    return not [path for path in (tmp_path / "cache").rglob("*") if path.is_dir() and path.name.startswith("demo-")]


def test_only_the_listed_members_are_kept(index: Index, tmp_path: Path) -> None:
    archive = wheel(**{"kept/a.txt": BODY, "kept/deep/b.txt": b"b", "demo/code.py": b"raise SystemExit"})
    index.files["demo-1.0-py3-none-any.whl"] = archive
    folder = sources.fetch("demo", table(tmp_path, archive))
    assert contents(folder) == {"kept/a.txt": BODY, "kept/deep/b.txt": b"b"}
    index.files.clear()
    assert sources.fetch("demo", table(tmp_path, archive)) == folder  # now without the index
    assert not list(folder.parent.glob("*.part"))


def test_an_sdist_is_read_without_being_built(index: Index, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, body in {"demo-1.0/kept/a.txt": b"text", "demo-1.0/setup.py": b"raise SystemExit"}.items():
            member = tarfile.TarInfo(name)
            member.size = len(body)
            archive.addfile(member, io.BytesIO(body))
    packed = gzip.compress(buffer.getvalue())
    index.files["demo-1.0.tar.gz"] = packed
    folder = sources.fetch("demo", table(tmp_path, packed, file="demo-1.0.tar.gz", members=["demo-1.0/kept/*"]))
    assert contents(folder) == {"demo-1.0/kept/a.txt": b"text"}


def test_a_cut_download_goes_on_where_it_ended(index: Index, tmp_path: Path) -> None:
    archive = wheel(**{"kept/a.txt": BODY})
    index.files["demo-1.0-py3-none-any.whl"] = archive
    index.cut = 2
    assert contents(sources.fetch("demo", table(tmp_path, archive))) == {"kept/a.txt": BODY}
    starts = [0 if wanted is None else int(wanted[6:-1]) for _, wanted in index.requests]
    assert starts == sorted(starts) and starts[1] > 0 and starts[2] > starts[1]


def test_a_download_given_up_is_continued_by_the_next_run(index: Index, tmp_path: Path) -> None:
    archive = wheel(**{"kept/a.txt": BODY})
    index.files["demo-1.0-py3-none-any.whl"] = archive
    index.cut = sources.ATTEMPTS
    pins = table(tmp_path, archive)
    with pytest.raises(ConnectionError, match="run again to continue"):
        sources.fetch("demo", pins)
    assert sources.source("demo", pins).state == "partial"
    index.requests.clear()
    sources.fetch("demo", pins)
    assert sources.source("demo", pins).state == "ready"
    assert int(index.requests[0][1][6:-1]) > len(archive) // 2


def test_another_archive_under_the_same_name_is_refused(index: Index, tmp_path: Path) -> None:
    archive = wheel(**{"kept/a.txt": BODY})
    index.files["demo-1.0-py3-none-any.whl"] = archive[:-1] + b"!"
    with pytest.raises(ValueError, match="not the pinned archive: its sha256 is"):
        sources.fetch("demo", table(tmp_path, archive))
    assert nothing_unpacked(tmp_path)


def test_a_truncated_archive_is_refused(index: Index, tmp_path: Path) -> None:
    archive = wheel(**{"kept/a.txt": BODY})
    index.files["demo-1.0-py3-none-any.whl"] = archive[:-1000]
    with pytest.raises(ValueError, match="is truncated"):
        sources.fetch("demo", table(tmp_path, archive))
    assert nothing_unpacked(tmp_path)


def test_without_a_network_one_sentence_says_so(index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _configure(monkeypatch, "http://127.0.0.1:9/simple/")  # the discard port: nobody answers
    with pytest.raises(ConnectionError, match="check the network and `pip config list`"):
        sources.fetch("demo", table(tmp_path, BODY))


def test_an_index_without_the_file_is_told(index: Index, tmp_path: Path) -> None:
    with pytest.raises(ConnectionError, match=r"demo-1.0-py3-none-any.whl \(demo==1.0\) was found in no package index"):
        sources.fetch("demo", table(tmp_path, BODY))


def test_a_disk_too_small_is_told_before_the_download(index: Index, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no space left .* GB needed"):
        sources.fetch("demo", table(tmp_path, BODY, unpacked=10**18))
    assert index.requests == []


@pytest.mark.parametrize("name", ["../outside", "/etc/outside", "kept/../../outside", "kept\\..\\outside"])
def test_nothing_is_written_outside_the_folder(index: Index, tmp_path: Path, name: str) -> None:
    archive = wheel(**{name: b"bad"})
    index.files["demo-1.0-py3-none-any.whl"] = archive
    with pytest.raises(ValueError, match="unsafe member name"):
        sources.fetch("demo", table(tmp_path, archive, members=["*"]))
    assert not list(tmp_path.rglob("outside")) and nothing_unpacked(tmp_path)


def test_terms_must_be_accepted_first(index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = wheel(**{"kept/a.txt": b"weights"})
    index.files["demo-1.0-py3-none-any.whl"] = archive
    pins = table(tmp_path, archive, terms="These are the terms", consent="DEMO_TERMS")
    with pytest.raises(ValueError, match="These are the terms.*DEMO_TERMS=accepted"):
        sources.fetch("demo", pins)
    assert index.requests == []
    monkeypatch.setenv("DEMO_TERMS", "accepted")
    assert contents(sources.fetch("demo", pins)) == {"kept/a.txt": b"weights"}


def test_two_processes_at_once_download_once(index: Index, tmp_path: Path) -> None:
    archive = wheel(**{"kept/a.txt": BODY})
    index.files["demo-1.0-py3-none-any.whl"] = archive
    code = "import pathlib, sys; from lib.data import sources; sources.fetch('demo', pathlib.Path(sys.argv[1]))"
    command = [sys.executable, "-c", code, str(table(tmp_path, archive))]
    both = [subprocess.Popen(command, cwd=Path(__file__).parents[1]) for _ in "ab"]
    assert [process.wait() for process in both] == [0, 0]
    assert [name for name, _ in index.requests] == ["demo-1.0-py3-none-any.whl"]


def test_the_command_line_lists_and_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    sources.main([])
    listed = capsys.readouterr().out
    assert all(name in listed for name in sources.sources())
    with pytest.raises(SystemExit, match="unknown source 'nothing': expected one of smollm2-135m"):
        sources.main(["fetch", "nothing"])


def test_pins_are_complete() -> None:
    for source in sources.sources().values():
        for archive in source.archives:
            assert len(bytes.fromhex(archive.sha256)) == 32
            assert archive.version in archive.file and archive.bytes > 0
        assert source.licence and source.members and source.unpacked > 0
        assert bool(source.terms) == ("not open source" in source.licence)
