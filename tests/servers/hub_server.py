"""A local HTTP server that a Hugging Face client takes for the hub, over data sets or models in folders.

    with HubServer({"owner/name": folder}, commit=SHA) as hub:
        env = hub.env(tmp_path / "home")         # for a process that uses huggingface_hub
        hub.fail("/cdn/", Fault(status=500), times=2)  # answers of matching paths go wrong
        assert hub.fetched() == ["OKVQA_data/test-00000-of-00001.parquet"]

It answers what `snapshot_download` asks: the revision of a branch, the tree of a commit in pages, HEAD
and GET of files, these by a redirect to another host (its content network: ``localhost``), with Range.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from servers.faulty_server import Answer, Fault, FaultyServer, Request

PAGE = 40  # entries of a tree in one answer


def refused(status: int, code: str) -> Fault:
    """The hub's own refusal, with an ``X-Error-Code``."""
    return Fault(status=status, headers=_error_headers(code))


class HubServer(FaultyServer):
    """The server; use it in ``with``.

    A fault's path is a part of the paths meant: ``/api/datasets/REPO/tree/…``,
    ``/datasets/REPO/resolve/…``, and for bytes ``/cdn/SHA256/REPO/FILE``.

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
        super().__init__()
        self.datasets = dict(datasets)
        self.commit = commit
        self.token = token
        self.accepted = accepted
        self._blobs: dict[str, Path] = {}

    @property
    def endpoint(self) -> str:
        """What HF_ENDPOINT must be."""
        return self.url("")

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

    def fetched(self) -> list[str]:
        """Files whose bytes were asked for so far, each once, in order of name."""
        matches = (
            re.match(r"/cdn/[0-9a-f]{64}/[^/]+/[^/]+/(.+)", request.path)
            for request in self.requests
            if request.method == "GET"
        )
        return sorted({unquote(match[1]) for match in matches if match})

    def meant(self, path: str, request: Request) -> bool:
        return path in request.path

    def answer(self, request: Request, fault: Fault) -> Answer:
        if fault.status is not None:
            return _error(fault.status)
        path = unquote(urlsplit(request.path).path)
        if match := re.fullmatch(r"/cdn/([0-9a-f]{64})/.+", path):
            digest = match[1]
            if digest not in self._blobs:
                return _error(404)
            return self.file(request, self._blobs[digest].read_bytes(), fault, f'"{digest}"')
        match = re.fullmatch(
            r"(?:/(?:api/)?datasets|/api/models)?/([^/]+/[^/]+)/(revision|tree|resolve)/([^/]+)"
            r"(?:/(.+))?",
            path,
        )
        folder = self.datasets.get(match[1]) if match else None
        if match is None or folder is None:
            return _error(401 if request.token is None else 404, "RepoNotFound")
        repo, verb, revision, name = match.groups()
        if revision not in {self.commit, "main"}:
            return _error(404, "RevisionNotFound")
        if verb == "revision":
            return self.json({"id": repo, "sha": self.commit, "private": False, "tags": []})
        if verb == "tree":
            return self._tree(folder, request)
        if self.token and request.token != self.token:
            return _error(401, "GatedRepo")
        if self.token and not self.accepted:
            return _error(403, "GatedRepo")
        return self._redirect(repo, name or "")

    def json(self, value: Any, headers: Mapping[str, str] | None = None) -> Answer:
        """A value as JSON."""
        kind = {"Content-Type": "application/json", "X-Repo-Commit": self.commit}
        return Answer(200, kind | dict(headers or {}), json.dumps(value).encode())

    def _tree(self, folder: Path, request: Request) -> Answer:
        """Folders and files of a commit, ``PAGE`` at a time."""
        entries: list[dict[str, Any]] = []
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            oid = hashlib.sha1(name.encode()).hexdigest()
            if path.is_dir():
                entries.append({"type": "directory", "oid": oid, "size": 0, "path": name})
                continue
            size = path.stat().st_size
            lfs = {"oid": self._digest(path), "size": size, "pointerSize": 134}
            entries.append({"type": "file", "oid": oid, "size": size, "lfs": lfs, "path": name})
        asked = urlsplit(request.path)
        start = int(parse_qs(asked.query).get("cursor", ["0"])[0])
        headers = {}
        if start + PAGE < len(entries):
            base = self.endpoint + asked.path
            headers["Link"] = f'<{base}?recursive=true&cursor={start + PAGE}>; rel="next"'
        return self.json(entries[start : start + PAGE], headers)

    def _redirect(self, repo: str, name: str) -> Answer:
        """Where a file of a data set is to be had, and what it is."""
        path = self.datasets[repo] / name
        if not path.is_file():
            return _error(404, "EntryNotFound")
        digest = self._digest(path)
        headers = {
            "Location": self.url(f"/cdn/{digest}/{repo}/{name}", "localhost"),
            "X-Repo-Commit": self.commit,
            "X-Linked-Etag": f'"{digest}"',
            "X-Linked-Size": str(path.stat().st_size),
        }
        return Answer(302, headers)

    def _digest(self, path: Path) -> str:
        """The sha256 of a file, under which the content network knows it."""
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        self._blobs[digest] = path
        return digest


def _error_headers(code: str | None) -> dict[str, str]:
    headers = {"Content-Type": "application/json"}
    if code:
        headers |= {"X-Error-Code": code, "X-Error-Message": f"{code}: no such thing for you"}
    return headers


def _error(status: int, code: str | None = None) -> Answer:
    return Answer(
        status, _error_headers(code), json.dumps({"error": code or "something is wrong"}).encode()
    )
