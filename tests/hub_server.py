"""A model hub on loopback that speaks the protocol of the real one, and fails on demand.

Large files are answered as the hub answers them: a redirection, which carries the metadata, to another host.
"""

import hashlib
import json
import os
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = 4096  # bytes from which a file is on the other host


@dataclass
class Repository:
    """Files of each commit, and what names the commits go by."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    private: bool = False
    gated: bool = False

    def add(self, branch: str, files: dict[str, bytes]) -> str:
        """A branch and its one commit."""
        named = [branch, sorted((path, digest(body)) for path, body in files.items())]
        sha = hashlib.sha1(repr(named).encode()).hexdigest()
        self.commits[sha] = files
        self.branches[branch] = sha
        return sha


@dataclass
class Request:
    """What was asked and how much was sent."""

    method: str
    path: str
    host: str
    range: str | None
    token: str | None
    sent: int = 0


@dataclass
class Fault:
    """Something that goes wrong the next `times` times a path matches."""

    pattern: str
    times: int = 1
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None  # bytes after which the connection ends
    whole: bool = False  # answer a request for a range with everything
    change: Callable[[bytes], bytes] | None = None  # of the body, whose stated length stays as it was


class Hub:
    """The server: `repositories` by `models/org/name`, `faults` to come, `requests` so far."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.token = "hf_secret"
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self.other_host = f"http://localhost:{self._server.server_port}"

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()

    def model(self, name: str, **options: bool) -> Repository:
        """A new model repository."""
        return self.repositories.setdefault(f"models/{name}", Repository(**options))

    def dataset(self, name: str) -> Repository:
        """A new dataset repository."""
        return self.repositories.setdefault(f"datasets/{name}", Repository())

    def fault(self, request: Request) -> Fault | None:
        """The first fault left that matches."""
        for fault in self.faults:
            if fault.times and re.search(fault.pattern, f"{request.method} {request.path}"):
                fault.times -= 1
                return fault
        return None


def settle(environment: dict[str, str]) -> None:
    """Set the environment of a new process, before it imports a client that reads it."""
    os.environ.update(environment)


@cache
def digest(body: bytes) -> str:
    """The SHA-256 by which a large file is stored."""
    return hashlib.sha256(body).hexdigest()


def blob(body: bytes) -> dict:
    """A file as listings describe it."""
    described = {"size": len(body), "oid": digest(body)[:40]}
    if len(body) >= LARGE:
        # The same hash goes by two names: in the tree of a repository, and in what is told about one.
        described["lfs"] = {"oid": digest(body), "sha256": digest(body), "size": len(body), "pointerSize": 134}
    return described


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.respond()

        def do_GET(self) -> None:
            self.respond()

        def do_POST(self) -> None:
            self.respond()

        def respond(self) -> None:
            self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
            self.asked = Request(self.command, unquote(self.path), self.headers["Host"], self.headers["Range"], token)
            hub.requests.append(self.asked)
            self.trouble = hub.fault(self.asked)
            if self.trouble and self.trouble.status:
                return self.answer(self.trouble.status, b"", self.trouble.headers)
            path = urlsplit(self.path).path  # as it came: a slash in a revision is %2F
            if match := re.fullmatch(r"/other-host/([0-9a-f]{64})", path):
                return self.large(match[1])
            if match := re.fullmatch(
                r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(\w[\w-]*)(?:/([^/]*)(?:/(.*))?)?)?", path
            ):
                return self.interface(
                    f"{match[1]}/{match[2]}", match[3], *(unquote(part or "") for part in match.groups()[3:])
                )
            if match := re.fullmatch(r"/(?:(datasets)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                return self.resolve(f"{match[1] or 'models'}/{match[2]}", unquote(match[3]), unquote(match[4]))
            return self.error(404, "RepoNotFound")

        def repository(self, name: str) -> Repository | None:
            found = hub.repositories.get(name)
            if found is None or (found.private and self.asked.token != hub.token):
                self.error(401, "RepoNotFound")
                return None
            return found

        def files(self, repository: Repository, revision: str) -> tuple[str, dict[str, bytes]] | None:
            sha = repository.branches.get(revision, revision)
            if sha not in repository.commits:
                self.error(404, "RevisionNotFound")
                return None
            return sha, repository.commits[sha]

        def interface(self, name: str, what: str | None, revision: str, folder: str) -> None:
            repository = self.repository(name)
            if repository is None:
                return None
            if what == "refs":
                heads = [
                    {"name": branch, "ref": f"refs/heads/{branch}", "targetCommit": sha}
                    for branch, sha in repository.branches.items()
                ]
                return self.json({"branches": heads, "tags": [], "converts": []})
            if what in ("tree", "paths-info", "revision", None):
                found = self.files(repository, revision or "main")
                return None if found is None else self.listing(name, what, *found, folder)
            return self.error(404, "EntryNotFound")

        def listing(self, name: str, what: str | None, sha: str, files: dict[str, bytes], folder: str) -> None:
            if what in ("revision", None):
                siblings = [{"rfilename": path} | blob(body) for path, body in files.items()]
                return self.json(
                    {
                        "_id": sha[:24],
                        "id": name.partition("/")[2],
                        "sha": sha,
                        "private": False,
                        "tags": [],
                        "downloads": 0,
                        "likes": 0,
                        "siblings": siblings,
                    }
                )
            entries = {path: {"type": "file", "path": path} | blob(body) for path, body in files.items()}
            for path in files:
                for depth in range(1, path.count("/") + 1):
                    parent = "/".join(path.split("/")[:depth])
                    entries[parent] = {"type": "directory", "path": parent, "size": 0, "oid": sha}
            if what == "paths-info":
                wanted = parse_qs(self.body.decode()).get("paths") or json.loads(self.body)["paths"]
                return self.json([entries[path] for path in wanted if path in entries])
            deep = "recursive=True" in self.path or "recursive=true" in self.path
            inside = [
                entry
                for path, entry in entries.items()
                if path.startswith(folder + "/" * bool(folder))
                and (deep or "/" not in path[len(folder) + bool(folder) :])
            ]
            if folder and not inside:
                return self.error(404, "EntryNotFound")
            return self.json(inside)

        def resolve(self, name: str, revision: str, path: str) -> None:
            repository = self.repository(name)
            found = repository and self.files(repository, revision)
            if not found:
                return None
            sha, files = found
            if repository.gated and self.asked.token != hub.token:
                return self.error(403, "GatedRepo")
            if path not in files:
                return self.error(404, "EntryNotFound", {"X-Repo-Commit": sha})
            body = files[path]
            headers = {"X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
            if len(body) < LARGE:
                return self.content(body, headers | {"ETag": f'"{digest(body)[:40]}"'})
            return self.answer(
                302,
                b"",
                headers
                | {
                    "Location": f"{hub.other_host}/other-host/{digest(body)}?signature=x",
                    "X-Linked-Size": str(len(body)),
                    "X-Linked-ETag": f'"{digest(body)}"',
                },
            )

        def large(self, wanted: str) -> None:
            for repository in hub.repositories.values():
                for files in repository.commits.values():
                    for body in files.values():
                        if len(body) >= LARGE and digest(body) == wanted:
                            return self.content(body, {"ETag": f'"{wanted}"', "Accept-Ranges": "bytes"})
            return self.error(404, "EntryNotFound")

        def content(self, body: bytes, headers: dict[str, str]) -> None:
            match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.asked.range or "")
            if not match or (self.trouble and self.trouble.whole):
                return self.answer(200, body, headers)
            first, last = int(match[1]), min(int(match[2] or len(body)), len(body) - 1)
            if first >= len(body):
                return self.answer(416, b"", {"Content-Range": f"bytes */{len(body)}"})
            return self.answer(
                206, body[first : last + 1], headers | {"Content-Range": f"bytes {first}-{last}/{len(body)}"}
            )

        def json(self, value: object) -> None:
            self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

        def error(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
            self.answer(status, b"", (headers or {}) | {"X-Error-Code": code, "X-Error-Message": code})

        def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "HEAD" or not body:
                return
            if self.trouble and self.trouble.change:
                body = self.trouble.change(body)
            if self.trouble and self.trouble.cut is not None:
                body, self.close_connection = body[: self.trouble.cut], True
            self.asked.sent += len(body)
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    return Handler
