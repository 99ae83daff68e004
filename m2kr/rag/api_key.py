"""The key of an endpoint: read from the environment, sent in one header, never written or shown."""

import base64
import json
import os
import re
from typing import Any
from urllib.parse import quote, quote_plus

import requests

from m2kr.errors import UsageError

_SHOWN = "[key]"
# What is shorter is a placeholder such as EMPTY, and may be a word of an answer.
_SECRET = 8
_PLACEHOLDER = re.compile(r"\b(?:sk|gsk|xai|hf)[-_][A-Za-z0-9*_\-]{6,}|(?<=Bearer )\S+")


class ApiKey(requests.auth.AuthBase):
    """A key that a request can carry and nothing can print; as an ``auth`` of requests it adds its header.

    Args:
        variable: The environment variable that holds it; "" sends none.

    Raises:
        UsageError: The variable's name or its value can't be one. Neither is in the message: people
            give the key itself in place of the name.
    """

    __slots__ = ("_forms", "_value", "variable")

    def __init__(self, variable: str) -> None:
        if variable and not re.fullmatch(r"[A-Z_][A-Z0-9_]{0,99}", variable):
            raise UsageError(
                "key_env is no name of an environment variable (not shown: it may be the key itself)",
                expected="capitals, digits and _, such as key_env=OPENAI_API_KEY",
                fix="export OPENAI_API_KEY=... and leave key_env out",
            )
        self.variable = variable
        self._value = os.environ.get(variable, "").strip() if variable else ""
        if not re.fullmatch(r"[\x21-\x7e]*", self._value):
            raise UsageError(
                f"${variable} holds something that can't be a key (not shown)",
                expected="printable ASCII without blanks or line breaks",
            )
        forms = sorted(_written_forms(self._value), key=len, reverse=True)
        # Upper and lower case alike: some servers write headers in one of them.
        self._forms = re.compile("|".join(map(re.escape, forms)), re.I) if forms else None

    def __bool__(self) -> bool:
        return bool(self._value)

    def __repr__(self) -> str:
        return f"ApiKey(${self.variable})" if self.variable else "ApiKey(none)"

    def __reduce__(self) -> tuple[Any, ...]:
        return ApiKey, (self.variable,)

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Adds the header; with no key none, whatever ~/.netrc holds."""
        if self._value:
            request.headers["Authorization"] = f"Bearer {self._value}"
        return request

    def within(self, text: str) -> bool:
        """Whether a text holds the key in some form."""
        return bool(self.clean(text) != text)

    def clean(self, value: Any) -> Any:
        """Plain JSON with the key taken out of every string, keys of objects included."""
        if isinstance(value, str):
            return self._forms.sub(_SHOWN, value) if self._forms else value
        if isinstance(value, list):
            return [self.clean(item) for item in value]
        if isinstance(value, dict):
            return {self.clean(name): self.clean(item) for name, item in value.items()}
        return value

    def words(self, text: str, limit: int = 400) -> str:
        """A server's text for a message: one line without controls, and without anything like a key."""
        text = self.clean(text)
        if self._value and len(self._value) < _SECRET:
            text = re.sub(rf"(?<!\w){re.escape(self._value)}(?!\w)", _SHOWN, text)
        elif self._value:  # a text may be cut inside the key
            head, tail = (
                re.escape(part) for part in (self._value[:_SECRET], self._value[-_SECRET:])
            )
            text = re.sub(rf"{head}\S*|\S*{tail}", _SHOWN, text)
        text = re.sub(r"[\x00-\x1f\x7f-\x9f\s]+", " ", text)
        text = _PLACEHOLDER.sub(_SHOWN, text).strip()
        return text if len(text) <= limit else f"{text[:limit]}..."


def _written_forms(key: str) -> set[str]:
    """The key as a server may write it in an answer: plain, in an address, in JSON, in hex, in base64."""
    if len(key) < _SECRET:
        return set()
    forms = {key, key[::-1], quote(key, safe=""), quote_plus(key), json.dumps(key)[1:-1]}
    forms.add(key.encode().hex())
    for before in range(3):  # bytes that may stand before it, as in "Bearer ..."
        encoded = base64.b64encode(bytes(before) + key.encode()).decode()
        # Without the characters at its ends that hold bits of others.
        inner = encoded[4 if before else 0 : len(encoded) - 4]
        if len(inner) > _SECRET:  # what is shorter may stand in any text
            forms |= {inner, inner.replace("+", "-").replace("/", "_")}
    return forms
