"""A `FaultyServer` that answers chat completions; its faults are those of ``ChatServer.PATH``."""

import json
import threading
from collections.abc import Callable, Mapping
from typing import Any

from servers.faulty_server import Answer, Fault, FaultyServer, Request

Ask = Mapping[str, Any]


def last_text(ask: Ask) -> str:
    """The text of a request's last message."""
    content = ask["messages"][-1]["content"]
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")


class ChatServer(FaultyServer):
    """Answers every request by a function of its body.

    Args:
        reply: The text of an answer, or the whole ``choices[0]``.
        usage: Tokens that it says were read and written; None to say nothing.
        key: The only key that it lets in; None lets everybody in.
        delay: Seconds that the model takes.

    Attributes:
        model: Which it says it is.
        asks: Bodies of the requests that were answered.
        most: Requests that it worked on at a time, at most.
    """

    PATH = "/v1/chat/completions"

    def __init__(
        self,
        reply: Callable[[Ask], Any] = lambda _: "a badger",
        *,
        usage: tuple[int, int] | None = (100, 3),
        key: str | None = None,
        delay: float = 0.0,
    ) -> None:
        super().__init__()
        self._reply, self._usage, self._key, self._delay = reply, usage, key, delay
        self.model = "tiny-1"
        self.asks: list[Ask] = []
        self.more: dict[str, Any] = {}
        self._busy = self.most = 0
        self._count = threading.Lock()

    @property
    def base(self) -> str:
        """The address as ``base_url`` has it."""
        return self.url("/v1")

    @property
    def posts(self) -> list[Request]:
        """Requests so far, whatever became of them."""
        return [request for request in self.requests if request.method == "POST"]

    def answer(self, request: Request, fault: Fault) -> Answer:
        kind = {"Content-Type": "application/json"}
        if fault.status is not None or fault.redirect is not None:
            return super().answer(request, fault)
        if request.path != self.PATH or request.method != "POST":
            return Answer(404, kind, b'{"error": {"message": "no such path"}}')
        if self._key is not None and request.token != self._key:
            said = f"Incorrect API key provided: {request.token}"
            return Answer(401, kind, json.dumps({"error": {"message": said}}).encode())
        ask = json.loads(request.body)
        with self._count:
            self._busy += 1
            self.most = max(self.most, self._busy)
        self.pause(self._delay)
        said = self._reply(ask)
        with self._count:
            self._busy -= 1
            self.asks.append(ask)
        if isinstance(said, str):
            said = {"message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
        reply = {
            "id": "chatcmpl-1",
            "model": self.model,
            "choices": [{"index": 0} | said],
            **self.more,
        }
        if self._usage is not None:
            read, written = self._usage
            usage = {"prompt_tokens": read, "completion_tokens": written}
            reply["usage"] = usage | {"total_tokens": read + written}
        body = json.dumps(reply).encode() if fault.body is None else fault.body
        return Answer(200, kind, body)
