"""A local HTTP server that misbehaves as asked, for tests of whatever downloads.

    with FaultyServer({"/a.bin": b"…"}) as server:
        server.fail("/a.bin", Fault(truncate=10), times=2)
        fetch(server.url("/a.bin"))
        assert server.gets("/a.bin")[1].headers["Range"] == "bytes=10-"

It serves bytes, or files of any size, with Content-Length, a strong ETag, Last-Modified, Range and
If-Range, and logs every request. Faults of a path are used up one request at a time, in the order
they were added.
"""

import hashlib
import os
import re
import socket
import struct
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from requests.structures import CaseInsensitiveDict

LAST_MODIFIED = "Wed, 21 Oct 2015 07:28:00 GMT"
FOREVER = 10**9


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one request; fields combine.

    Attributes:
        method: Only requests of this method; of any if None.
        status: Answer with this status (and ``body``, or a short page) instead of the file.
        headers: Sent besides, or in place of, the usual ones; None leaves one out.
        body: Serve these bytes instead of the file's, with their own ETag.
        redirect: Answer 302 to this address.
        truncate: Break the connection after this many bytes of the body.
        delay: Seconds before the answer.
        stall_at: Send nothing for ``stall`` seconds after this many bytes of the body.
        stall: see ``stall_at``.
        drip: Send the body in pieces of this many bytes, ``drip_seconds`` apart.
        drip_seconds: see ``drip``.
        slow_head: Send the head of the answer without an end: a byte at a time, so many seconds apart.
        endless: Repeat the body for ever, without a size.
        ranges: False ignores Range.
        if_range: False goes on in a changed file as if it were the same.
        chunked: Chunked encoding instead of a Content-Length.
        unsized: Neither: the end of the connection is the end of the body.
        reset: Break the connection before the answer, as by a crash.
    """

    method: str | None = None
    status: int | None = None
    headers: Mapping[str, str | None] = field(default_factory=dict)
    body: bytes | None = None
    redirect: str | None = None
    truncate: int | None = None
    delay: float = 0.0
    stall_at: int | None = None
    stall: float = 0.0
    drip: int | None = None
    drip_seconds: float = 0.001
    slow_head: float = 0.0
    endless: bool = False
    ranges: bool = True
    if_range: bool = True
    chunked: bool = False
    unsized: bool = False
    reset: bool = False


@dataclass(frozen=True)
class Request:
    """One request as it came in."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = b""

    @property
    def token(self) -> str | None:
        """What it says who it is by."""
        sent = self.headers.get("Authorization")
        return sent.removeprefix("Bearer ") if sent else None


class OnDisk:
    """A file on disk as a body, read piece by piece."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("rb", buffering=0)
        self._size = os.fstat(self._file.fileno()).st_size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice) -> bytes:
        start, end, _ = part.indices(self._size)
        return os.pread(self._file.fileno(), end - start, start)

    @property
    def etag(self) -> str:
        """Of path and size alone."""
        return etag_of(f"{self._path} {self._size}".encode())


Body = bytes | OnDisk


@dataclass
class Answer:
    """What is sent, unless a fault changes it."""

    status: int
    headers: dict[str, str]
    body: Body = b""


class FaultyServer:
    """The server; use it in ``with``.

    Args:
        files: Body by path. May be changed while it runs.

    Attributes:
        sent: Bytes of bodies that were written.
    """

    def __init__(self, files: Mapping[str, Body] | None = None) -> None:
        self.files = dict(files or {})
        self.requests: list[Request] = []
        self.sent = 0
        self._faults: dict[str, list[list[Any]]] = {}
        self._lock = threading.Lock()
        self._quit = threading.Event()
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
        self._quit.set()
        self._http.shutdown()
        self._http.server_close()

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        """The address of a path; ``host="localhost"`` is another host to a client, and this server."""
        return f"http://{host}:{self._http.server_address[1]}{path}"

    def fail(self, path: str, *faults: Fault, times: int = 1) -> None:
        """Adds faults to a path, each for ``times`` requests."""
        with self._lock:
            self._faults.setdefault(path, []).extend([fault, times] for fault in faults)

    def gets(self, path: str) -> list[Request]:
        """The GET requests of a path so far."""
        return [r for r in self.requests if r.method == "GET" and r.path.partition("?")[0] == path]

    def ranges(self, path: str) -> list[str | None]:
        """The Range header of each GET of a path so far."""
        return [request.headers.get("Range") for request in self.gets(path)]

    def take(self, request: Request) -> Fault:
        """Logs a request and says what goes wrong with it."""
        with self._lock:
            self.requests.append(request)
            for path, queue in self._faults.items():
                if self.meant(path, request):
                    for entry in queue:
                        fault, times = entry
                        if times > 0 and fault.method in {None, request.method}:
                            entry[1] -= 1
                            return fault  # type: ignore[no-any-return]
        return Fault()

    def meant(self, path: str, request: Request) -> bool:
        """Whether a fault of this path concerns a request."""
        return request.path.partition("?")[0] == path

    def answer(self, request: Request, fault: Fault) -> Answer:
        """What a request gets."""
        body = self.files.get(request.path.partition("?")[0])
        page = {"Content-Type": "text/html"}
        if fault.redirect is not None:
            return Answer(302, {"Location": fault.redirect})
        if fault.status is not None:
            text = b"<html>something is wrong</html>" if fault.body is None else fault.body
            return Answer(fault.status, page, text)
        if body is None:
            return Answer(404, page, b"<html>not found</html>")
        return self.file(request, body if fault.body is None else fault.body, fault)

    def file(self, request: Request, body: Body, fault: Fault, etag: str | None = None) -> Answer:
        """A file, or the range of it that is asked for."""
        etag = etag or (body.etag if isinstance(body, OnDisk) else etag_of(body))
        headers = {"ETag": etag, "Last-Modified": LAST_MODIFIED, "Accept-Ranges": "bytes"}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
        if_range = request.headers.get("If-Range")
        known = if_range in {None, etag, LAST_MODIFIED} or not fault.if_range
        if asked is None or not fault.ranges or not known:
            return Answer(200, headers, body)
        start = int(asked[1])
        end = min(int(asked[2]) + 1, len(body)) if asked[2] else len(body)
        if start >= len(body):
            return Answer(416, headers | {"Content-Range": f"bytes */{len(body)}"})
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(body)}"
        return Answer(206, headers, body[start:end])

    def count(self, n: int) -> None:
        """Notes bytes of a body that were written."""
        with self._lock:
            self.sent += n

    @property
    def ended(self) -> bool:
        """Whether the server was closed."""
        return self._quit.is_set()

    def pause(self, seconds: float) -> None:
        """Sleeps, but not beyond the server's end."""
        self._quit.wait(seconds)


def etag_of(body: bytes) -> str:
    """The strong ETag this server gives a body."""
    return f'"{hashlib.sha256(body).hexdigest()[:16]}"'


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    owner: FaultyServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are part of the game."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the log is in ``requests``."""

    def do_GET(self) -> None:
        owner = self.server.owner
        sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        request = Request(self.command, self.path, CaseInsensitiveDict(self.headers), sent)
        fault = owner.take(request)
        owner.pause(fault.delay)
        if fault.reset:
            self.close_connection = True
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            return
        if fault.slow_head:
            self.close_connection = True
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            while not owner.ended:
                self.wfile.write(b"a")
                owner.pause(fault.slow_head)
            return
        self._send(owner.answer(request, fault), fault)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        self.do_GET()

    def _send(self, answer: Answer, fault: Fault) -> None:
        headers, body = answer.headers, answer.body
        if fault.chunked:
            headers["Transfer-Encoding"] = "chunked"
        elif not fault.unsized and not fault.endless:
            headers["Content-Length"] = str(len(body))
        self.send_response(answer.status)
        for name, value in {**headers, **fault.headers}.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        if fault.unsized or fault.endless or fault.truncate is not None:
            self.close_connection = True
        if self.command == "HEAD":
            return
        while fault.endless:
            self._write(body, 0, len(body), fault)
        end = len(body) if fault.truncate is None else min(fault.truncate, len(body))
        stall = min(fault.stall_at, end) if fault.stall_at is not None else None
        if stall is not None:
            self._write(body, 0, stall, fault)
            self.wfile.flush()
            self.server.owner.pause(fault.stall)
        self._write(body, stall or 0, end, fault)
        if fault.chunked and end == len(body):
            self.wfile.write(b"0\r\n\r\n")

    def _write(self, body: Body, start: int, end: int, fault: Fault) -> None:
        step = fault.drip or 1 << 16
        for at in range(start, end, step):
            piece = body[at : min(at + step, end)]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if fault.chunked else piece)
            self.server.owner.count(len(piece))
            if fault.drip:
                time.sleep(fault.drip_seconds)
