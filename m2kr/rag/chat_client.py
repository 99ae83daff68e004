"""Asks a server of chat completions: again where that may help, never beyond a budget."""

import base64
import http.cookiejar
import io
import ipaddress
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal, TypeVar
from urllib.parse import urljoin, urlsplit

import orjson
import requests
import urllib3.exceptions

from m2kr._version import __version__
from m2kr.building.fetch.addresses import mount
from m2kr.building.fetch.http import body_blocks, cause, must_decode, open_session, retry_after
from m2kr.building.fetch.retry import Failure, Policy, Stopped, persist
from m2kr.errors import M2KRError, UpstreamError, UsageError
from m2kr.rag.api_key import ApiKey
from m2kr.rag.budget import Budget, Expense, Prices
from m2kr.rag.chat_reply import Completion, NoAnswer, parse_reply, read_reply, usage_of
from m2kr.retrievers._settings import split_off

log = logging.getLogger("m2kr.rag.chat_client")

Item = TypeVar("Item")
Result = TypeVar("Result")
Config = TypeVar("Config", bound="ChatConfig")

Message = dict[str, Any]

# The environment variable that says where the server is, as other clients have it.
ADDRESS = "OPENAI_BASE_URL"
_KEY_ENV = "OPENAI_API_KEY"
_LARGEST = 8 << 20
_AGAIN = {408, 409, 425, 429}
# So many first answers without a text are a wrong setting, not chance.
_HOPELESS = 3
# What may lie in the question: too long, or an image that the server can't read.
_REFUSED = {400, 413, 422}
# What servers say with 429 where waiting doesn't help.
_USED_UP = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"}
_FILTERED = ("content_filter", "content_policy", "responsibleaipolicyviolation")
_KEYS = {
    "api_key",
    "apikey",
    "key",
    "token",
    "secret",
    "password",
    "authorization",
    "openai_api_key",
}
_SET_BY_US = {"model", "messages", "stream", "n", "temperature", "seed", "top_p", "logprobs"}
_SET_BY_US |= {"max_tokens", "max_completion_tokens"}


@dataclass(frozen=True, kw_only=True)
class ChatConfig:
    """Where a model is asked, how, and what that may cost.

    Attributes:
        model: Its name by the server.
        base_url: Of the server, such as ``http://127.0.0.1:8000/v1``; else ``$OPENAI_BASE_URL``.
        key_env: The environment variable that holds the key, if it is set; "" to send none.
        allow_http: A key may go unencrypted to another machine.
        max_tokens: Of an answer.
        max_tokens_name: What the server calls this.
        temperature: 0 for the likeliest answer; None to leave it to the server.
        top_p: Left to the server if None.
        seed: The same.
        logprobs: Ask for log probabilities; an answer's score is their sum.
        extra: More of the request's body, as a JSON object, such as ``{"reasoning_effort": "low"}``.
        concurrency: Requests under way at a time.
        timeout: Seconds for one answer.
        attempts: Before a request is given up.
        backoff: Seconds before the second attempt; doubles with every further one, to a minute.
        refused: What a request leads to that the server refuses for its content, such as one that is longer
            than the model's context: ``error``, or ``empty``, an answer without a text.
        budget: Dollars that one command may spend; needs the prices.
        token_budget: Tokens, read and written, that one command may spend.
        request_budget: Requests that one command may make, repeated ones included.
        price_in: Dollars per million tokens read.
        price_out: Dollars per million tokens written.
    """

    prefix: ClassVar[str] = ""  # of these settings on the command line

    model: str
    base_url: str | None = None
    key_env: str = _KEY_ENV
    allow_http: bool = False
    max_tokens: int = 64
    max_tokens_name: str = "max_tokens"
    temperature: float | None = 0.0
    top_p: float | None = None
    seed: int | None = None
    logprobs: bool = True
    extra: str | None = None
    concurrency: int = 4
    timeout: float = 120.0
    attempts: int = 8
    backoff: float = 1.0
    refused: Literal["error", "empty"] = "error"
    budget: float | None = None
    token_budget: int | None = None
    request_budget: int | None = None
    price_in: float | None = None
    price_out: float | None = None

    def __post_init__(self) -> None:
        if not self.model.strip():
            raise UsageError("no model is named", fix="--set model=NAME")
        if self.model.startswith("//"):
            raise UsageError(
                "an address is given where the model's name belongs (not shown)",
                expected="http:MODEL, and the address by a setting",
                fix="--reader http:MODEL --set base_url=ADDRESS",
            )
        for name, least, most in (
            ("max_tokens", 1, 10**6),
            ("temperature", 0, 2),
            ("top_p", 0, 1),
            ("concurrency", 1, 256),
            ("timeout", 0.05, 86400),
            ("attempts", 1, 1000),
            ("backoff", 0, 60),
            ("budget", 0, 10**9),
            ("token_budget", 0, 10**15),
            ("request_budget", 0, 10**12),
            ("price_in", 0, 10**6),
            ("price_out", 0, 10**6),
        ):
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise UsageError(
                    f"the setting '{name}' can't be {value:g}",
                    expected=f"from {least:g} to {most:g}",
                )
        if self.max_tokens_name not in {"max_tokens", "max_completion_tokens"}:
            raise UsageError(
                "the setting 'max_tokens_name' is not understood",
                expected="max_tokens or max_completion_tokens",
            )
        if self.budget is not None and None in (self.price_in, self.price_out):
            raise UsageError(
                "a budget in dollars needs the prices, which are not known here",
                expected="dollars per million tokens, by the price list of whom you pay",
                fix="--set price_in=0.15 --set price_out=0.60, or --set token_budget=1000000",
            )
        self.more()

    def more(self) -> dict[str, Any]:
        """``extra`` as an object.

        Raises:
            UsageError: It is none, or holds what other settings say.
        """
        if self.extra is None:
            return {}
        try:
            extra = orjson.loads(self.extra)
        except orjson.JSONDecodeError as error:
            raise UsageError(
                "the setting 'extra' is no JSON", expected='such as {"reasoning_effort": "low"}'
            ) from error
        if not isinstance(extra, dict) or _SET_BY_US & set(extra):
            raise UsageError(
                "the setting 'extra' can't be this",
                expected="a JSON object without " + ", ".join(sorted(_SET_BY_US)),
            )
        return extra

    def sampling(self) -> dict[str, Any]:
        """The settings that decide an answer, as plain JSON."""
        return {
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "seed": self.seed,
            "logprobs": self.logprobs,
            "extra": self.more(),
        }


class ChatClient:
    """Asks one model of one server.

    Requests are not streamed: an answer is whole or it is asked for again. A request that fails with
    408, 409, 425, 429 or 5xx, by a broken connection, a timeout or a body that makes no sense is made
    again, after the pause that the server asks for or a doubling one; other refusals are one error with
    the server's words. The key goes to this server alone: redirects to others are refused.

    Args:
        config: Which, and how.

    Raises:
        UsageError: A setting or the key can't be used.

    Attributes:
        config: As given.
        budget: What was spent so far.
    """

    def __init__(self, config: ChatConfig) -> None:
        self.config = config
        with _naming_settings(config.prefix):
            self._key = ApiKey(config.key_env)
            if not self._key and config.key_env not in {"", _KEY_ENV}:
                raise UsageError(
                    "the environment variable that key_env names is not set (not shown: the name may be "
                    "the key itself)",
                    fix="export it, or leave key_env out",
                )
            self._url = _completions_url(config, self._key)
        if self._key.within(config.model + (config.extra or "")):
            raise UsageError("a setting holds the key", fix="leave it to the environment variable")
        self.budget = Budget(
            Prices(config.price_in, config.price_out),
            config.budget,
            config.token_budget,
            config.request_budget,
        )
        self._policy = Policy(
            attempts=config.attempts,
            backoff=config.backoff,
            connect_timeout=min(20.0, config.timeout),
            read_timeout=config.timeout,
            slow_seconds=config.timeout,
        )
        self._session = open_session()
        # Unencrypted requests go to nobody in between: a proxy would read the key.
        self._session.trust_env = self._url.startswith("https:")
        self._session.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
        mount(self._session, answer_seconds=config.timeout, connections=max(10, config.concurrency))
        self._lock = threading.Lock()
        self._reached = False
        self._free_at = 0.0
        self._model: str | None = None
        self._texts = self._cut = 0

    @property
    def server(self) -> str:
        """Host and path of the server; neither scheme nor port, which say nothing of the model."""
        parts = urlsplit(self._url)
        host = "localhost" if _is_loopback(parts.hostname or "") else parts.hostname
        return f"{host}{parts.path.removesuffix('/chat/completions')}"

    @property
    def _address(self) -> str:
        """The server as errors name it, port included: a wrong one is a usual reason."""
        parts = urlsplit(self._url)
        return f"{parts.netloc}{parts.path.removesuffix('/chat/completions')}"

    def facts(self) -> dict[str, Any]:
        """What decides answers: model, server, sampling. Neither key nor budget, nor how patient we are."""
        return {"model": self.config.model, "server": self.server, **self.config.sampling()}

    def complete(
        self,
        messages: Sequence[Message],
        *,
        image: bool = False,
        stop: threading.Event | None = None,
    ) -> Completion:
        """The model's answer.

        Args:
            messages: As the protocol has them.
            image: Whether they hold an image, for the budget.
            stop: Set to give up.

        Raises:
            BudgetSpent: The request could exceed the budget.
            UpstreamError: The server refuses it, can't be reached, or gives no usable answer.
            Stopped: ``stop`` was set.
        """
        with _naming_settings(self.config.prefix):
            return self._complete(messages, image, stop or threading.Event())

    def _complete(
        self, messages: Sequence[Message], image: bool, stop: threading.Event
    ) -> Completion:
        body = orjson.dumps(self._body(messages))
        size = sum(_text_bytes(message) for message in messages)
        try:
            completion = self._persist(body, size, image, stop)
        except Failure as failure:
            if (
                self.config.refused == "empty"
                and failure.status in _REFUSED
                and self._answers_another(image, stop)
            ):
                detail = {"refusal": failure.reason[:500]}
                nothing = self.budget.prices.dollars(0, 0)
                return Completion("", None, 0, 0, nothing, missing="refused", detail=detail)
            raise UpstreamError(
                failure.reason,
                where=self._address,
                fix="the same command goes on from here when the server answers again"
                if failure.status == 0
                else self._hint(failure.status, failure.reason),
            ) from None
        except NoAnswer as error:
            raise UpstreamError(f"the model {error}", where=self._address) from None
        self._note(completion)
        return completion

    def _persist(self, body: bytes, size: int, image: bool, stop: threading.Event) -> Completion:
        """What a body of so many bytes of text is answered with, sooner or later.

        Raises:
            Failure: It isn't.
            NoAnswer: The answer can't be used.
        """

        def attempt() -> Completion:
            stop.wait(max(0.0, self._free_at - time.monotonic()))
            with self.budget.request(
                size, self.config.max_tokens, image=image, stop=stop
            ) as expense:
                return self._attempt(body, expense)

        return persist(
            attempt,
            self._policy,
            log=partial(log.warning, "%s: %s", self._address),
            stop=stop,
            offline=lambda: not self._reached,
        )

    def _answers_another(self, image: bool, stop: threading.Event) -> bool:
        """Whether the server answers something short right now: then a refused question is at fault.

        Raises:
            BudgetSpent: Asking could exceed the budget.
            Stopped: ``stop`` was set.
        """
        text = "What colour is this?" if image else "What colour is the sky?"
        content: Any = text
        if image:
            picture = {"type": "image_url", "image_url": {"url": _grey_image()}}
            content = [picture, {"type": "text", "text": text}]
        body = orjson.dumps(self._body([{"role": "user", "content": content}]))
        try:
            # The budget learns nothing of images from so small a one.
            self._persist(body, len(text) + 4096 * image, False, stop)
        except (Failure, NoAnswer):
            return False
        return True

    def run(
        self, work: Callable[[Item, threading.Event], Result], items: Sequence[Item]
    ) -> Iterator[tuple[int, Result]]:
        """``work(item, stop)`` of every item with its number, as they are ready, several at a time.

        After an error nothing new is begun; what is under way has been paid for, so it is waited for
        and given first. Threads are daemons: an interrupted program doesn't wait for a slow server.

        Raises:
            Exception: The first that ``work`` raised.
        """
        todo, lock, stop = iter(enumerate(items)), threading.Lock(), threading.Event()
        results: queue.SimpleQueue[tuple[int, Any, BaseException | None] | None]
        results = queue.SimpleQueue()

        def serve() -> None:
            while not stop.is_set():
                with lock:
                    number, item = next(todo, (-1, None))
                if number < 0:
                    break
                try:
                    results.put((number, work(item, stop), None))  # type: ignore[arg-type]
                except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
                    stop.set()
                    results.put((number, None, error))
            results.put(None)

        count = min(self.config.concurrency, len(items))
        for number in range(count):
            threading.Thread(target=serve, name=f"m2kr-chat-{number}", daemon=True).start()
        first: BaseException | None = None
        try:
            while count:
                entry = results.get()
                if entry is None:
                    count -= 1
                elif entry[2] is None:
                    yield entry[0], entry[1]
                elif first is None or isinstance(first, Stopped):
                    first = entry[2]
        finally:
            stop.set()
        if first is not None:
            raise first

    def _body(self, messages: Sequence[Message]) -> dict[str, Any]:
        config = self.config
        body: dict[str, Any] = {
            "model": config.model,
            "messages": list(messages),
            "stream": False,
            config.max_tokens_name: config.max_tokens,
        }
        for name in ("temperature", "top_p", "seed"):
            if getattr(config, name) is not None:
                body[name] = getattr(config, name)
        if config.logprobs:
            body["logprobs"] = True
        return body | config.more()

    def _attempt(self, body: bytes, expense: Expense) -> Completion:
        """One request and its answer.

        Raises:
            Failure: It failed.
            NoAnswer: The answer can't be used.
        """
        with self._post(body, expense) as response:
            self._reached = True
            data = self._read(response)
        media = response.headers.get("Content-Type", "")
        if response.status_code != 200:
            wait = retry_after(response.headers.get("Retry-After"))
            return self._failed(response.status_code, data, wait, expense)
        reply = self._parsed(data, media)
        expense.input_tokens, expense.output_tokens = usage_of(reply)
        error = reply.get("error")
        if error and not reply.get("choices"):
            # Some servers say 200 and the true status inside.
            code = error.get("code") if isinstance(error, dict) else None
            status = code if isinstance(code, int) and not isinstance(code, bool) else 500
            return self._failed(status, data, None, expense)
        completion = read_reply(reply)
        read, written = expense.input_tokens, expense.output_tokens
        dollars = self.budget.prices.dollars(read, written)
        return replace(completion, input_tokens=read, output_tokens=written, dollars=dollars)

    def _parsed(self, data: bytes, media: str) -> dict[str, Any]:
        try:
            reply: dict[str, Any] = self._key.clean(parse_reply(data))
        except RecursionError:
            raise Failure("answered with JSON that is nested too deeply", again=True) from None
        except Failure as failure:
            kind = media.partition(";")[0].strip().lower()
            if kind and "json" not in kind and failure.again:
                kind = self._key.words(kind, 60)
                reason = f"{failure.reason} ({kind}); is base_url right?"
                raise Failure(reason, again=True) from None
            raise
        return reply

    def _post(self, body: bytes, expense: Expense) -> requests.Response:
        """The answer's head. Redirects on the same server alone are followed."""
        url = self._url
        for _ in range(4):
            try:
                expense.asked = True
                response = self._session.post(
                    url,
                    data=body,
                    headers={
                        "User-Agent": f"m2kr/{__version__}",
                        "Content-Type": "application/json",
                        "Accept": "application/json",
                        "Accept-Encoding": "identity",
                    },
                    stream=True,
                    allow_redirects=False,
                    timeout=(self._policy.connect_timeout, self._policy.read_timeout),
                    auth=self._key,
                )
            except requests.ConnectTimeout:
                expense.asked = False
                reason = f"no connection within {self._policy.connect_timeout:g} s"
                raise Failure(reason, again=True, unreachable=True) from None
            except requests.ReadTimeout:
                raise Failure(f"no answer for {self.config.timeout:g} s", again=True) from None
            except requests.exceptions.SSLError as error:
                expense.asked = False
                raise Failure(cause(error)) from None
            except (ValueError, urllib3.exceptions.LocationParseError):
                # Of requests' own errors those of an address are a ValueError, too.
                expense.asked = False
                raise Failure("the server's address, or the proxy's, can't be used") from None
            except requests.RequestException as error:
                inner = getattr(error.args[0] if error.args else None, "reason", None)
                gone = isinstance(
                    inner, urllib3.exceptions.NewConnectionError | urllib3.exceptions.ProxyError
                )
                expense.asked = not gone
                raise Failure(cause(error), again=True, unreachable=gone) from None
            try:
                target = self._session.get_redirect_target(response)
                there = None if target is None else urljoin(url, target)
            except ValueError:
                response.close()
                expense.asked = False
                raise Failure("redirects to what is no address") from None
            if there is None:
                return response
            response.close()
            expense.asked = False
            url = self._redirected(url, there, response.status_code)
        raise Failure("redirects in a circle")

    def _redirected(self, url: str, there: str, status: int) -> str:
        try:
            before, after = urlsplit(url), urlsplit(there)
            same = (before.scheme, before.netloc) == (after.scheme, after.netloc)
            place = f"{after.scheme}://{after.hostname}" + (f":{after.port}" if after.port else "")
        except ValueError:
            raise Failure("redirects to what is no address") from None
        if same and status in {307, 308}:
            return there
        raise Failure(
            f"redirects (HTTP {status}) to {self._key.words(place, 200)}, which is not followed: the key and "
            "the question were meant for the server that is named; set base_url to the address itself"
        )

    def _read(self, response: requests.Response) -> bytes:
        """The body, whole and not too large, in time."""
        deadline = time.monotonic() + self.config.timeout
        data = bytearray()
        for block in body_blocks(response, self._policy, decode=must_decode(response, "")):
            data += block
            if len(data) > _LARGEST:
                raise Failure(f"answers with more than {_LARGEST >> 20} MiB")
            if time.monotonic() > deadline:
                raise Failure(
                    f"the answer wasn't whole after {self.config.timeout:g} s", again=True
                )
        length = response.headers.get("Content-Length", "")
        plain = not must_decode(response, "") and "chunked" not in response.headers.get(
            "Transfer-Encoding", ""
        )
        if plain and length.isdecimal() and len(data) < int(length):
            reason = f"the answer ended after {len(data):,} of {int(length):,} bytes"
            raise Failure(reason, again=True)
        return bytes(data)

    def _failed(self, status: int, data: bytes, wait: float | None, expense: Expense) -> Completion:
        """Raises `Failure` for a status; an answer that a filter withheld is one without a text."""
        words = self._said(data)
        lowered = data[:4096].lower()
        if status in {400, 403} and any(mark.encode() in lowered for mark in _FILTERED):
            detail = {"refusal": words[:500], "finish_reason": "content_filter"}
            return Completion("", missing="refused", detail=detail)
        expense.asked = False
        used_up = status == 429 and any(mark.encode() in lowered for mark in _USED_UP)
        again = (status in _AGAIN or 500 <= status < 600) and status != 501 and not used_up
        reason = f"HTTP {status}" + (f": {words}" if words else "")
        if again and wait and wait > self._policy.retry_after_cap:
            raise Failure(f"{reason}; asks to wait {wait:,.0f} s")
        if again and wait:
            with self._lock:
                self._free_at = max(self._free_at, time.monotonic() + wait)
        raise Failure(reason, again=again, wait=wait if again else None, status=status)

    def _said(self, data: bytes) -> str:
        """The server's words on an error, fit for a message."""
        try:
            said: Any = orjson.loads(data)
        except orjson.JSONDecodeError:
            text = data[:20_000].decode("utf-8", "replace")
            return self._key.words("" if text.lstrip().startswith("<") else text)
        for name in ("error", "message", "detail"):
            if isinstance(said, dict) and said.get(name):
                said = said[name]
        if not isinstance(said, str):
            try:
                said = orjson.dumps(said).decode()
            except TypeError:  # nested too deeply
                said = data[:20_000].decode("utf-8", "replace")
        return self._key.words(said)

    def _hint(self, status: int, words: str) -> str | None:
        words = words.lower()
        variable = self._key.variable
        if status == 401 and not self._key:
            return f"export {variable or 'OPENAI_API_KEY'}=...: no key was sent"
        if status in {401, 403} and "logprobs" not in words:
            return f"look after the key in ${variable}, and what it may do"
        if status == 404:
            return "look after base_url (most end with /v1) and model"
        if "max_completion_tokens" in words:
            return "--set max_tokens_name=max_completion_tokens"
        if "logprobs" in words:
            return "--set logprobs=false"
        if "temperature" in words:
            return "--set temperature=none"
        empty = "--set refused=empty counts such questions as answered with nothing"
        if status == 413 or "context" in words or "too long" in words:
            return f"fewer passages (--k), or a smaller image; {empty}"
        if "image" in words:
            return f"--set images=false, if it reads text alone; {empty}"
        return empty if status in _REFUSED else None

    def _note(self, completion: Completion) -> None:
        """Says where the server's word on who answers changes.

        Raises:
            UpstreamError: All answers so far went into reasoning.
        """
        model = completion.detail.get("model")
        with self._lock:
            before, self._model = self._model, model or self._model
            self._texts += completion.missing != "cut"
            self._cut += completion.missing == "cut"
            hopeless = not self._texts and self._cut >= _HOPELESS
        if None not in (before, model) and before != model:
            log.warning(
                "%s: answers come from %s now, and came from %s before: they may not compare",
                self._address,
                model,
                before,
            )
        if hopeless:
            raise UpstreamError(
                f"the first {_HOPELESS} answers have no text: the model spent its "
                f"{self.config.max_tokens} tokens on reasoning",
                where=self._address,
                fix=f"--set max_tokens={max(2048, 8 * self.config.max_tokens)}, or less reasoning "
                """(--set extra='{"reasoning_effort": "low"}' where the server knows it)""",
            )


def _completions_url(config: ChatConfig, key: ApiKey) -> str:
    """Where requests go.

    Raises:
        UsageError: The address is none, holds a secret, or isn't encrypted.
    """
    base = (config.base_url or os.environ.get(ADDRESS, "")).strip()
    shape = "such as https://api.openai.com/v1 or http://127.0.0.1:8000/v1"
    if not base:
        raise UsageError(
            "the server's address is not set", expected=shape, fix="--set base_url=ADDRESS"
        )
    try:
        parts = urlsplit(base)
        host, port = parts.hostname or "", parts.port
        usable = parts.scheme in {"http", "https"} and bool(host) and port != 0
    except ValueError:
        usable = False
    if not usable:
        raise UsageError("base_url is no address of http or https (not shown)", expected=shape)
    if "@" in parts.netloc or parts.query or parts.fragment or key.within(base):
        raise UsageError(
            "base_url holds a password, a key, a query or a fragment (not shown)",
            expected=f"{shape}, without them",
            fix=f"export {config.key_env or 'OPENAI_API_KEY'}=... for the key",
        )
    if parts.scheme == "http" and key and not (config.allow_http or _is_loopback(host)):
        raise UsageError(
            f"the key would go to {host} unencrypted",
            expected="https, or a server on this machine",
            fix="--set key_env= to send no key, or --set allow_http=true",
        )
    path = parts.path.rstrip("/").removesuffix("/chat/completions") or "/v1"
    return f"{parts.scheme}://{parts.netloc}{path}/chat/completions"


def _grey_image() -> str:
    """The address of a small image that any model of images can look at."""
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (64, 64), "grey").save(file, "png")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost" or host.lower().endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _text_bytes(message: Mapping[str, Any]) -> int:
    content = message.get("content")
    if isinstance(content, str):
        return len(content.encode("utf-8", "replace"))
    parts = content if isinstance(content, list) else []
    return sum(len(str(part.get("text", "")).encode("utf-8", "replace")) for part in parts)


def chat_config(kind: type[Config], settings: Mapping[str, str], where: str) -> Config:
    """Settings as their types.

    Args:
        kind: Of settings.
        settings: By name, as ``--set`` has them.
        where: What they are for, in errors.

    Raises:
        UsageError: One is not known, is missing or has a wrong value; a key in particular, which would
            stand in the shell's history and in records.
    """
    for name in settings:
        if name.lower().replace("-", "_") in _KEYS:
            raise UsageError(
                f"a key is no setting ('{name}'; its value is not shown)",
                where=where,
                expected="the key in an environment variable",
                fix="export OPENAI_API_KEY=..., or another variable and --set key_env=ITS_NAME",
            )
    with _naming_settings(kind.prefix):
        given, _ = split_off(kind, settings, where)
        return kind(**given)


@contextmanager
def _naming_settings(prefix: str) -> Iterator[None]:
    """Commands in the errors of a ``with`` block name settings as they are set: ``judge.model``."""
    try:
        yield
    except M2KRError as error:
        if not prefix or not error.fix:
            raise
        fix = error.fix.replace("--set ", f"--set {prefix}")
        raise type(error)(
            error.what, where=error.where, expected=error.expected, fix=fix
        ) from error.__cause__
