"""What servers send in place of a file, with a status that says all is well: pages, forms, errors.

Only asked where no checksum decides.
"""

import json
import re
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

_HEAD = 4096
_SMALL = 64 << 10
_MARKUP = (".html", ".htm", ".xhtml", ".xml", ".svg")
_PAGE = re.compile(
    rb"(<\?xml[^>]*>|<!--.*?-->|\s)*"
    rb"<(!doctype html|html|head|body|meta|title|script|style|form|div|center|h1|p>|error|"
    rb"accessdenied|listbucketresult)",
    re.IGNORECASE | re.DOTALL,
)
_SIGN_IN = re.compile(
    r"(^|[/._-])(log[-_]?in|sign[-_]?in|sso|oauth2?|saml|accounts?)([/._-]|$)", re.I
)
_REFUSAL = re.compile(
    r"\b(access (to .{1,120} )?(is )?(restricted|denied)|must be (authenticated|logged in)|"
    r"(log|sign) ?in to|unauthori[sz]ed|forbidden|permission denied|gated repo|"
    r"(quota|rate limit|too many requests|download limit)\b.{0,80}(exceeded|reached|limit|retry))",
    re.IGNORECASE | re.DOTALL,
)
_ERROR_KEYS = {
    "code", "detail", "details", "error", "error_code", "error_description", "errors", "message",
    "msg", "reason", "request_id", "requestid", "status", "statuscode", "success", "title", "type",
}  # fmt: skip
_SAYS_ERROR = {"detail", "error", "error_description", "errors", "message", "msg"}
_BEGINS = {
    ".zip": (b"PK",),
    ".gz": (b"\x1f\x8b",),
    ".tgz": (b"\x1f\x8b",),
    ".bz2": (b"BZh",),
    ".xz": (b"\xfd7zXZ\x00",),
    ".zst": (b"\x28\xb5\x2f\xfd",),
    ".parquet": (b"PAR1",),
}


def instead_of(path: Path, name: str) -> str | None:
    """What a file is in place of the one that was asked for; None if nothing speaks against it.

    Args:
        path: What arrived.
        name: Of the file that was asked for; its ending says what it is.
    """
    suffix = PurePosixPath(name).suffix.lower()
    with path.open("rb") as file:
        head = _text_of(file.read(_HEAD))
        size = path.stat().st_size
        if suffix not in _MARKUP and _PAGE.match(head):
            return "a web page (a login form or an error?) instead of the file"
        if size <= _SMALL:
            file.seek(0)
            text = _text_of(file.read(_SMALL)).decode("utf-8", "replace").strip()
            if _is_error(text):
                return f"an error message instead of the file: {_cut(text)}"
            if (
                size <= _HEAD
                and not text.startswith(("{", "["))
                and "\t" not in text
                and _REFUSAL.search(text)
            ):
                return f"a refusal instead of the file: {_cut(text)}"
    if suffix in _BEGINS and not head.startswith(_BEGINS[suffix]):
        return f"no {suffix} file: it begins with {head[:16]!r}"
    return None


def is_sign_in(url: str, media: str) -> bool:
    """Whether the address that redirects ended at is a page where one has to sign in."""
    parts = urlsplit(url)
    return "html" in media and bool(_SIGN_IN.search(f"{parts.hostname or ''}{parts.path}"))


def _text_of(head: bytes) -> bytes:
    """A text's beginning as UTF-8, whatever its byte order mark says it is."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return head.decode("utf-16", "replace").encode()
    return head.removeprefix(b"\xef\xbb\xbf")


def _is_error(text: str) -> bool:
    if not text.startswith("{"):
        return False
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return False
    keys = {str(key).lower() for key in record}
    return bool(keys & _SAYS_ERROR) and keys <= _ERROR_KEYS


def _cut(text: str) -> str:
    return " ".join(text.split())[:160]
