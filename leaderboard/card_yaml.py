"""Cards as YAML that is nothing but mappings, lists and words: no tags, aliases or merge keys.

YAML has many ways to write one value, and many words that mean another than they seem to (``no``, ``010``,
``1:30``). Words stay as they are written; the reader's types decide what they mean.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from .problems import Problem, SubmissionRefused
from .system_card import CARD

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_BYTES = 256 << 10
_MOST_NODES, _MOST_DEPTH = 20_000, 8
_FIX = (
    "change it in system.yaml; write it as m2kr submit init does: keys and values, lists with hyphens, and "
    "nothing else of YAML"
)
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class CardNode:
    """A value in a card.

    Attributes:
        value: A word, the nodes of a list, or those of a mapping by their keys.
        line: Where it begins, from 1.
        plain: A word without quotes: only such may be a number, a flag, or nothing.
    """

    value: str | list["CardNode"] | dict[str, "CardNode"]
    line: int
    plain: bool = False


def parse_card_yaml(data: bytes) -> dict[str, CardNode]:
    """The mapping that a card is.

    Raises:
        SubmissionRefused: It is too long, no YAML, or has what a card doesn't need.
    """
    if len(data) > MOST_BYTES:
        raise _refused(f"it has {len(data):,} bytes", f"at most {MOST_BYTES:,}")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _refused(f"byte {error.start + 1:,} is not UTF-8", "UTF-8 text") from error
    for number, character in enumerate(text):
        if not (character.isprintable() or character in "\n\r\t\u3000\u200c\u200d\u00a0"):
            line = text.count("\n", 0, number) + 1
            raise _refused(
                f"it holds the character U+{ord(character):04X}",
                "text without control, invisible and bidirectional characters",
                line,
            )
    try:
        root = _document(yaml.parse(text, _LOADER))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        what = getattr(error, "problem", None) or str(error)
        line = mark.line + 1 if mark else 0
        raise _refused(f"it is no YAML: {' '.join(str(what).split())[:200]}", "", line) from error
    if not isinstance(root.value, dict):
        raise _refused("it is no mapping", "keys and values, the first: format", root.line)
    return root.value


def _document(events: "Iterator[Any]") -> CardNode:
    """The one document that some events make."""
    root: CardNode | None = None
    open_: list[
        tuple[CardNode, str | None]
    ] = []  # lists and mappings; the key that waits for a value
    documents = nodes = 0
    for event in events:
        line = event.start_mark.line + 1
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise _refused("it has several documents", "one", line)
            if event.version or event.tags:
                raise _refused("it has a directive", "none", line)
        elif isinstance(event, yaml.AliasEvent):
            raise _refused("it has an alias (*)", "each value written out", line)
        elif isinstance(event, yaml.NodeEvent):
            nodes += 1
            if nodes > _MOST_NODES:
                raise _refused(f"it has more than {_MOST_NODES:,} values", "", line)
            _require_simple(event, line)
            if isinstance(event, yaml.ScalarEvent):
                node = CardNode(event.value, line, not event.style)
            else:
                node = CardNode({} if isinstance(event, yaml.MappingStartEvent) else [], line)
            if not open_:
                root = node
            else:
                open_[-1] = _placed(*open_[-1], node)
            if not isinstance(node.value, str):
                if len(open_) >= _MOST_DEPTH:
                    raise _refused("it is nested too deeply", f"{_MOST_DEPTH} levels", line)
                open_.append((node, None))
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            open_.pop()
    if root is None:
        raise _refused("it is empty", "keys and values, the first: format")
    return root


def _require_simple(event: Any, line: int) -> None:
    if event.anchor:
        raise _refused("it has an anchor (&)", "each value written out", line)
    scalar = isinstance(event, yaml.ScalarEvent)
    # An own tag leaves `implicit` false; a word in quotes has (False, True), a plain one (True, False).
    if event.tag is not None or not (any(event.implicit) if scalar else event.implicit):
        raise _refused("it has a tag (!)", "plain values", line)
    if scalar and not event.style and event.value == "<<":
        raise _refused("it has a merge key (<<)", "each value written out", line)


def _placed(node: CardNode, key: str | None, child: CardNode) -> tuple[CardNode, str | None]:
    """Puts a node into the list or mapping that is open."""
    if isinstance(node.value, list):
        node.value.append(child)
        return node, None
    assert isinstance(node.value, dict)
    if key is not None:
        node.value[key] = child
        return node, None
    if not isinstance(child.value, str):
        raise _refused("a key is no word", "a word before each colon", child.line)
    if child.value in node.value:
        raise _refused(f"the key {ascii(child.value)[:80]} is given twice", "once", child.line)
    node.value[child.value] = child  # until its value comes
    return node, child.value


def _refused(what: str, expected: str = "", line: int = 0) -> SubmissionRefused:
    where = f"{CARD}:{line}" if line else CARD
    return SubmissionRefused([Problem("safe-yaml", where, what, expected, _FIX)])
