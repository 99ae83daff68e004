"""A `HubServer` that takes commits, too: enough of the hub's protocol for small files.

Every file goes into the commit itself; the hub's separate uploads of big files are not served.
"""

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

from hub_server import Asked, HubServer, _Handler


class PushServer(HubServer):
    """A hub over a folder: data sets are made below it as they are asked for.

    Args:
        root: Where.
        token: The only one that may write; anybody may read.
    """

    def __init__(self, root: Path, *, token: str) -> None:
        super().__init__({}, commit="0" * 40)
        self.root, self.writer = root, token
        self.commits: list[dict[str, list[str]]] = []
        self.created: list[dict[str, Any]] = []
        self._http.RequestHandlerClass = _PushHandler

    def create(self, request: dict[str, Any]) -> str:
        """Makes a data set."""
        repo = f"{request['organization']}/{request['name']}"
        self.created.append(request)
        self.datasets[repo] = self.root / repo
        self.datasets[repo].mkdir(parents=True, exist_ok=True)
        return f"{self.endpoint}/datasets/{repo}"

    def apply(self, repo: str, lines: list[dict[str, Any]]) -> None:
        """Writes and deletes what a commit says."""
        done: dict[str, list[str]] = {"file": [], "deletedFile": []}
        for line in lines[1:]:
            key, value = line["key"], line["value"]
            path = self.datasets[repo] / value["path"]
            if key == "file":
                path.write_bytes(base64.b64decode(value["content"]))
            else:
                path.unlink()
            done[key].append(value["path"])
        self.commits.append(done)
        self.commit = hashlib.sha1(f"{self.commit}".encode()).hexdigest()


class _PushHandler(_Handler):
    def do_POST(self) -> None:
        hub = self.server.owner
        assert isinstance(hub, PushServer)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        self.fault = hub.take(Asked("POST", self.path, self.headers["Host"], token, None))
        path = self.path.split("?")[0]
        found = re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/(preupload|commit)/main", path)
        if self.fault and self.fault.status:
            self._error(self.fault.status, self.fault.code)
        elif token != hub.writer:
            self._error(403, None)
        elif path == "/api/repos/create":
            self._json({"url": hub.create(json.loads(body))})
        elif found and found[2] == "preupload":
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                for f in json.loads(body)["files"]
            ]
            self._json({"files": files})
        elif found:
            hub.apply(found[1], [json.loads(line) for line in body.splitlines()])
            url = f"{hub.endpoint}/datasets/{found[1]}/commit/{hub.commit}"
            self._json({"commitUrl": url, "commitOid": hub.commit, "success": True})
        else:
            self._error(404, None)
