"""A `HubServer` that takes commits, too: enough of the hub's protocol for small files.

Every file goes into the commit itself; the hub's separate uploads of big files are not served.
"""

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

from servers.faulty_server import Answer, Fault, Request
from servers.hub_server import HubServer


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

    def answer(self, request: Request, fault: Fault) -> Answer:
        if request.method != "POST" or fault.status is not None:
            return super().answer(request, fault)
        path = request.path.split("?")[0]
        match = re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/(preupload|commit)/main", path)
        if request.token != self.writer:
            return Answer(403, {})
        if path == "/api/repos/create":
            return self.json({"url": self.create(json.loads(request.body))})
        if match is None:
            return Answer(404, {})
        if match[2] == "preupload":
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                for f in json.loads(request.body)["files"]
            ]
            return self.json({"files": files})
        self.apply(match[1], [json.loads(line) for line in request.body.splitlines()])
        url = f"{self.endpoint}/datasets/{match[1]}/commit/{self.commit}"
        return self.json({"commitUrl": url, "commitOid": self.commit, "success": True})
