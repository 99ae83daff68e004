"""What a server of chat completions answered: the text, how sure, what it took, or why there is none."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from m2kr import unicode_halves
from m2kr.building.fetch.retry import Failure

_THOUGHT = re.compile(r"\A\s*<think>.*?</think>", re.S)
_MOST_TOKENS = 10**9


@dataclass(frozen=True, slots=True)
class Completion:
    """A model's answer to messages.

    Attributes:
        text: What it said, stripped and without its reasoning; "" if nothing.
        logprob: The sum of its tokens' log probabilities; None if the server gave none.
        input_tokens: That it read; None if the server didn't say.
        output_tokens: That it wrote, reasoning included; None if the server didn't say.
        dollars: Their price; None if unknown.
        missing: Why there is no text: "refused" or "cut" (its tokens went into reasoning); None if there is.
        detail: ``model`` and ``system_fingerprint`` by the server's word, ``finish_reason`` unless it is
            ``stop``, the words of a ``refusal``.
    """

    text: str
    logprob: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    dollars: float | None = None
    missing: str | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)


class NoAnswer(Exception):
    """The answer is a well-formed one that can't be used, and asking again would bring the same."""


def parse_reply(body: bytes) -> dict[str, Any]:
    """The JSON object of an answer's body.

    Raises:
        Failure: It is none, worth another attempt.
    """
    try:
        reply = unicode_halves.loads(body.removeprefix(b"\xef\xbb\xbf"))
    except ValueError as error:
        what = "an empty body" if not body.strip() else "what is no JSON"
        if body.lstrip().startswith(b"data:"):
            raise Failure("streams its answer although it was asked not to") from error
        raise Failure(f"answered with {what}", again=True) from error
    if not isinstance(reply, dict):
        raise Failure("answered with JSON that is no object", again=True)
    return reply


def usage_of(reply: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Tokens read and written by the server's word; None for what it doesn't say."""
    usage = reply.get("usage")
    if not isinstance(usage, dict):
        return None, None
    read, written = (_count(usage.get(key)) for key in ("prompt_tokens", "completion_tokens"))
    # Servers that only reserve the fields write 0, but no prompt has no tokens.
    return (read, written) if read else (None, None)


def _count(value: object) -> int | None:
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if 0 <= value < _MOST_TOKENS else None


def read_reply(reply: Mapping[str, Any]) -> Completion:
    """What the reply says, without tokens and price.

    Raises:
        Failure: It has no choice, or one without a message: worth another attempt.
        NoAnswer: It calls a tool, or answers with something else than text.
    """
    choices = reply.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise Failure("answered without choices", again=True)
    choice = choices[0]
    message = choice.get("message")
    if not isinstance(message, dict):
        raise Failure("answered with a choice without a message", again=True)
    finish = choice.get("finish_reason")
    if finish == "error" or choice.get("error"):
        raise Failure("answered with an error inside", again=True)
    detail: dict[str, Any] = {}
    for key in ("model", "system_fingerprint"):
        if isinstance(reply.get(key), str) and reply[key]:
            detail[key] = reply[key][:200]
    if isinstance(finish, str) and finish not in {"stop", ""}:
        detail["finish_reason"] = finish[:50]
    content = _text_of(message.get("content"))
    text, thinks = _without_reasoning(content)
    refusal = message.get("refusal")
    if (isinstance(refusal, str) and refusal.strip()) or finish == "content_filter":
        words = refusal if isinstance(refusal, str) and refusal.strip() else content
        detail["refusal"] = words.strip()[:500] or "content filter"
        return Completion("", missing="refused", detail=detail)
    if not text:
        if message.get("tool_calls") or message.get("function_call"):
            raise NoAnswer("calls a tool in place of an answer, although it was offered none")
        if thinks or message.get("reasoning_content") or message.get("reasoning"):
            return Completion("", missing="cut", detail=detail)
        if finish == "length":
            return Completion("", missing="cut", detail=detail)
    return Completion(text, _logprob(choice.get("logprobs")), detail=detail)


def _text_of(content: object) -> str:
    """Content as one text; it may be a list of parts.

    Raises:
        NoAnswer: It has parts, and no text.
        Failure: It is of no known form.
    """
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        texts, kinds = [], set()
        for part in content:
            if isinstance(part, str):
                texts.append(part)
            elif isinstance(part, dict) and isinstance(part.get("text"), str):
                texts.append(part["text"])
            else:
                kinds.add(str(part.get("type"))[:30] if isinstance(part, dict) else "unknown")
        thoughts = {"thinking", "reasoning", "redacted_thinking"}
        if kinds - thoughts and not texts:
            raise NoAnswer(f"answers with {', '.join(sorted(kinds))} in place of text")
        return "".join(texts)
    raise Failure("answered with content that is no text", again=True)


def _without_reasoning(content: str) -> tuple[str, bool]:
    """The text behind a ``<think>`` block, and whether there is one that never ends."""
    rest = _THOUGHT.sub("", content, count=1)
    if rest.lstrip().startswith("<think>"):
        return "", True
    # Some templates open the block in the prompt, so that only its end is written.
    head, end, tail = rest.partition("</think>")
    return (tail if end else head).strip(), bool(end)


def _logprob(logprobs: object) -> float | None:
    tokens = logprobs.get("content") if isinstance(logprobs, dict) else None
    if not isinstance(tokens, list) or not tokens:
        return None
    total = 0.0
    for token in tokens:
        value = token.get("logprob") if isinstance(token, dict) else None
        if not isinstance(value, int | float) or isinstance(value, bool):
            return None
        total += value
    return total if math.isfinite(total) and total <= 0 else None
