"""A local HTTP server that a Hugging Face client takes for the hub, over data sets or models in folders.

    with HubServer({"owner/name": folder}, commit=SHA) as hub:
        env = hub.env(tmp_path / "home")         # for a process that uses huggingface_hub
        hub.fail("/cdn/", status=500, times=2)   # answers of matching paths go wrong
        assert hub.fetched() == ["OKVQA_data/test-00000-of-00001.parquet"]

It answers what `snapshot_download` asks: the revision of a branch, the tree of a commit in pages, HEAD
and GET of files, these by a redirect to another host (its content network: ``localhost``), with Range.
"""

import hashlib
import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

PAGE = 40  # entries of a tree in one answer


@dataclass(frozen=True)
class Asked:
    """One request as it came in."""

    method: str
    path: str
    host: str
    token: str | None
    range: str | None


@dataclass
class Fault:
    """What goes wrong with requests whose path holds ``part``, so many times."""

    part: str
    times: int
    method: str | None
    status: int | None
    code: str | None
    cut: int | None


class HubServer:
    """The server; use it in ``with``.

    Args:
        datasets: Folder by data set or model.
        commit: The commit that every data set has; ``main`` is its branch.
        token: If given, files (but not lists of files) are gated: only this token reads them.
        accepted: Whether the token's account accepted the terms.
    """

    def __init__(
        self,
        datasets: Mapping[str, Path],
        *,
        commit: str,
        token: str | None = None,
        accepted: bool = True,
    ) -> None:
        self.datasets = dict(datasets)
        self.commit = commit
        self.token = token
        self.accepted = accepted
        self.asked: list[Asked] = []
        self._faults: list[Fault] = []
        self._blobs: dict[str, Path] = {}
        self._lock = threading.Lock()
        self._http = _Server(("127.0.0.1", 0), _Handler)
        self._http.owner = self
        self._thread = threading.Thread(
            target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.shutdown()
        self._http.server_close()

    @property
    def endpoint(self) -> str:
        """What HF_ENDPOINT must be."""
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def env(self, home: Path, **more: str) -> dict[str, str]:
        """Variables that make a client ask this server and keep everything under ``home``."""
        return {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_IMPLICIT_TOKEN": "0",
            "HF_TOKEN": "",
            "NO_PROXY": "*",
        } | more

    def fail(
        self,
        part: str,
        *,
        status: int | None = None,
        code: str | None = None,
        cut: int | None = None,
        method: str | None = None,
        times: int = 10**9,
    ) -> None:
        """Adds a fault.

        Args:
            part: Of the paths meant: ``/api/datasets/REPO/tree/…``, ``/datasets/REPO/resolve/…``, and for
                bytes ``/cdn/SHA256/REPO/FILE``.
            status: Answer with this status.
            code: And with this ``X-Error-Code``.
            cut: Break off after this many bytes of the body.
            method: HEAD or GET alone.
            times: For so many requests.
        """
        self._faults.append(Fault(part, times, method, status, code, cut))

    def fetched(self) -> list[str]:
        """Files whose bytes were asked for so far, each once, in order of name."""
        found = (
            re.match(r"/cdn/[0-9a-f]{64}/[^/]+/[^/]+/(.+)", a.path)
            for a in self.asked
            if a.method == "GET"
        )
        return sorted({unquote(match[1]) for match in found if match})

    def take(self, asked: Asked) -> Fault | None:
        """Logs a request and says what goes wrong with it."""
        with self._lock:
            self.asked.append(asked)
            for fault in self._faults:
                fits = fault.part in asked.path and fault.method in {None, asked.method}
                if fits and fault.times > 0:
                    fault.times -= 1
                    return fault
        return None

    def digest(self, path: Path) -> str:
        """The sha256 of a file, under which the content network knows it."""
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        self._blobs[digest] = path
        return digest

    def blob(self, digest: str) -> Path | None:
        """The file of a sha256."""
        return self._blobs.get(digest)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    owner: HubServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are part of the game."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    fault: Fault | None = None

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the log is in ``asked``."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub = self.server.owner
        host, sent = self.headers.get("Host", ""), self.headers.get("Authorization")
        token = sent.removeprefix("Bearer ") if sent else None
        self.fault = hub.take(
            Asked(self.command, self.path, host, token, self.headers.get("Range"))
        )
        if self.fault and self.fault.status:
            self._error(self.fault.status, self.fault.code)
            return
        path = unquote(urlsplit(self.path).path)
        if found := re.fullmatch(r"/cdn/([0-9a-f]{64})/.+", path):
            blob = hub.blob(found[1])
            if blob is None:
                self._error(404, None)
            else:
                self._file(blob.read_bytes())
            return
        found = re.fullmatch(
            r"(?:/(?:api/)?datasets|/api/models)?/([^/]+/[^/]+)/(revision|tree|resolve)/([^/]+)"
            r"(?:/(.+))?",
            path,
        )
        folder = hub.datasets.get(found[1]) if found else None
        if found is None or folder is None:
            self._error(401 if token is None else 404, "RepoNotFound")
        elif found[3] not in {hub.commit, "main"}:
            self._error(404, "RevisionNotFound")
        elif found[2] == "revision":
            self._json({"id": found[1], "sha": hub.commit, "private": False, "tags": []})
        elif found[2] == "tree":
            self._tree(folder)
        elif hub.token and token != hub.token:
            self._error(401, "GatedRepo")
        elif hub.token and not hub.accepted:
            self._error(403, "GatedRepo")
        else:
            self._redirect(found[1], found[4] or "")

    def _tree(self, folder: Path) -> None:
        """Folders and files of a commit, ``PAGE`` at a time."""
        hub = self.server.owner
        entries: list[dict[str, Any]] = []
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            oid = hashlib.sha1(name.encode()).hexdigest()
            if path.is_dir():
                entries.append({"type": "directory", "oid": oid, "size": 0, "path": name})
                continue
            size = path.stat().st_size
            lfs = {"oid": hub.digest(path), "size": size, "pointerSize": 134}
            entries.append({"type": "file", "oid": oid, "size": size, "lfs": lfs, "path": name})
        query = parse_qs(urlsplit(self.path).query)
        start = int(query.get("cursor", ["0"])[0])
        headers = {}
        if start + PAGE < len(entries):
            base = hub.endpoint + urlsplit(self.path).path
            headers["Link"] = f'<{base}?recursive=true&cursor={start + PAGE}>; rel="next"'
        self._json(entries[start : start + PAGE], headers)

    def _redirect(self, repo: str, name: str) -> None:
        """Where a file of a data set is to be had, and what it is."""
        hub = self.server.owner
        path = hub.datasets[repo] / name
        if not path.is_file():
            self._error(404, "EntryNotFound")
            return
        digest, port = hub.digest(path), self.server.server_address[1]
        headers = {
            "Location": f"http://localhost:{port}/cdn/{digest}/{repo}/{name}",
            "X-Repo-Commit": hub.commit,
            "X-Linked-Etag": f'"{digest}"',
            "X-Linked-Size": str(path.stat().st_size),
        }
        self._send(302, headers, b"")

    def _file(self, body: bytes) -> None:
        headers = {"ETag": f'"{hashlib.sha256(body).hexdigest()}"', "Accept-Ranges": "bytes"}
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if found is None:
            self._send(200, headers, body)
            return
        start, end = int(found[1]), min(int(found[2] or len(body)) + 1, len(body))
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(body)}"
        self._send(206, headers, body[start:end])

    def _json(self, value: Any, headers: Mapping[str, str] | None = None) -> None:
        kind = {"Content-Type": "application/json", "X-Repo-Commit": self.server.owner.commit}
        self._send(200, kind | dict(headers or {}), json.dumps(value).encode())

    def _error(self, status: int, code: str | None) -> None:
        headers = {"Content-Type": "application/json"}
        if code:
            headers |= {"X-Error-Code": code, "X-Error-Message": f"{code}: no such thing for you"}
        self._send(status, headers, json.dumps({"error": code or "something is wrong"}).encode())

    def _send(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        cut = self.fault.cut if self.fault else None
        if cut is not None:
            self.close_connection = True
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body if cut is None else body[:cut])
