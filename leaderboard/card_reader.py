"""A card from what its YAML says: every field by its own small rule, and all faults at once."""

import difflib
import math
import os
import re
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from m2kr.sources import SPLIT_ALIASES, normalise

from .card_text import LONGEST_LINK, contact_fault, link_fault, name_fault, text_fault
from .card_yaml import MOST_BYTES, CardNode, parse_card_yaml
from .problems import Problem, SubmissionRefused
from .system_card import CARD, DEEPEST, FORMAT, SubmittedRun, SystemCard, TrainingData

SUFFIXES = (".parquet", ".trec.gz")
KINDS = ("single-stage", "re-rank", "fusion")
MODALITIES = ("text", "image")
LINKS = ("paper", "code", "model", "page")
COSTS = (
    "seconds_per_query",
    "cpu_seconds_per_query",
    "encode_seconds",
    "index_seconds",
    "bytes_per_passage",
    "peak_host_bytes",
    "peak_device_bytes",
)
TITLE, NOTE, WORDS = 80, 400, 120  # characters
MOST_AUTHORS, MOST_DATA, MOST_RUNS = 200, 100, 50
MOST_PARAMETERS, MOST_COST = 10**14, 10**18
_MOST_PROBLEMS = 30

_WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,40})")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,40})(\.[0-9]{1,40})?([eE][-+]?[0-9]{1,3})?")
_NOTHING = ("", "~", "null", "Null", "NULL")
PATTERNS = {
    "source": r"[A-Za-z][A-Za-z0-9_-]{0,63}",
    "split": r"[A-Za-z0-9_]{1,64}",
    "edition": r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}",
    "fingerprint": r"fp[0-9]{1,3}:[0-9a-f]{64}",
    "sha256": r"[0-9a-f]{64}",
    "version": r"[0-9]{1,6}(\.[0-9]{1,6}){1,3}([A-Za-z0-9.+-]{0,40})",
    "licence": r"[A-Za-z0-9][A-Za-z0-9.+() -]{0,79}",
    "metric": r"[a-z][a-z_]{0,40}@[1-9][0-9]{0,5}",
}
_FIX = "change it in system.yaml"


class _CardReader:
    """Reads one card; what is wrong is collected.

    Attributes:
        problems: What was found, the first ones of many.
        faults: How many there are.
    """

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.faults = 0

    def fault(
        self, node: CardNode | None, key: str, what: str, expected: str = "", fix: str = _FIX
    ) -> None:
        """Notes a fault of a field."""
        line = f":{node.line}" if node is not None else ""
        where = f"{CARD}{line}" + (f", {key}" if key else "")
        self.faults += 1
        if self.faults <= _MOST_PROBLEMS:
            self.problems.append(Problem("card", where, what, expected, fix))

    def told(self) -> list[Problem]:
        """The faults, and how many more there are."""
        if (more := self.faults - len(self.problems)) > 0:
            what = f"and {more:,} more faults"
            return [
                *self.problems,
                Problem("card", CARD, what, "", "change these, and check again"),
            ]
        return self.problems

    def card(self, root: Mapping[str, CardNode]) -> SystemCard | None:
        """The card; None if there is any fault."""
        fields = self._fields(root, "", REQUIRED, OPTIONAL)
        if (given := fields.get("format")) is not None and given.value != FORMAT:
            self.fault(given, "format", f"the format is {_shown(given)}", FORMAT)
        words = {key: self._text(fields.get(key), key, longest) for key, longest in TEXTS.items()}
        name = self._word(fields.get("name"), "name")
        if name is not None and (fault := name_fault(name)):
            self.fault(
                fields["name"], "name", f"{_shown(fields['name'])}: {fault}", "such as my-system"
            )
        contact = self._text(fields.get("contact"), "contact", LONGEST_LINK)
        if contact and (fault := contact_fault(contact)):
            expected = "a mail address or an https link"
            self.fault(
                fields["contact"], "contact", f"{_shown(fields['contact'])}: {fault}", expected
            )
        licence = self._matching(
            fields.get("licence"), "licence", "licence", "an SPDX name, or proprietary"
        )
        version = self._matching(
            fields.get("m2kr_version"), "m2kr_version", "version", "such as 0.1.0"
        )
        kind = self._one_of(fields.get("kind"), "kind", KINDS)
        runs = self._runs(fields.get("runs"))
        training_data = self._training_data(fields.get("training_data"))
        facts: dict[str, Any] = {
            "name": name,
            **words,
            "contact": contact,
            "licence": licence,
            "m2kr_version": version,
            "kind": kind,
            "authors": self._texts(fields.get("authors"), "authors", MOST_AUTHORS),
            "query_modalities": self._modalities(
                fields.get("query_modalities"), "query_modalities"
            ),
            "passage_modalities": self._modalities(
                fields.get("passage_modalities"), "passage_modalities"
            ),
            "parameters": self._parameters(fields.get("parameters")),
            "training_data": training_data,
            "zero_shot": self._flags(fields.get("zero_shot"), fields.get("runs"), training_data),
            "links": self._links(fields.get("links")),
            "note": self._note(fields.get("note")),
            "runs": runs,
        }
        return None if self.faults else SystemCard(**facts)

    def _fields(
        self,
        root: Mapping[str, CardNode],
        where: str,
        required: Iterable[str],
        optional: Iterable[str],
    ) -> dict[str, CardNode]:
        """The known fields; unknown ones and those that lack are faults."""
        required, known = list(required), [*required, *optional]
        for key, node in root.items():
            if key not in known:
                near = difflib.get_close_matches(key[:80], known, 1)
                expected = f"{near[0]}?" if near else "one of " + ", ".join(known)
                what = f"there is no field {ascii(key)[:80]}"
                self.fault(node, where.rstrip("."), what, expected, "leave it out")
        for key in required:
            if key not in root:
                self.fault(None, where + key, f"{key} is lacking", "", f"add it to {CARD}")
        return {key: node for key, node in root.items() if key in known}

    def _word(self, node: CardNode | None, key: str) -> str | None:
        if node is None:
            return None
        if not isinstance(node.value, str):
            self.fault(node, key, f"it is {_shown(node)}", "one text")
            return None
        if _is_nothing(node) or node.value == "":
            self.fault(node, key, "it is empty", "a text", f"fill it in, in {CARD}")
            return None
        return node.value

    def _text(self, node: CardNode | None, key: str, longest: int) -> str | None:
        word = self._word(node, key)
        if word is not None and (fault := text_fault(word, longest)):
            self.fault(node, key, fault, f"one line of at most {longest} characters")
            return None
        return word

    def _note(self, node: CardNode | None) -> str:
        empty = node is None or _is_nothing(node) or node.value == ""
        return "" if empty else self._text(node, "note", NOTE) or ""

    def _matching(self, node: CardNode | None, key: str, pattern: str, expected: str) -> str | None:
        word = self._word(node, key)
        if word is not None and not re.fullmatch(PATTERNS[pattern], word, re.ASCII):
            assert node is not None
            self.fault(node, key, f"it is {_shown(node)}", expected)
            return None
        return word

    def _one_of(self, node: CardNode | None, key: str, allowed: tuple[str, ...]) -> str | None:
        word = self._word(node, key)
        if word is not None and word not in allowed:
            assert node is not None
            self.fault(node, key, f"it is {_shown(node)}", "one of " + ", ".join(allowed))
            return None
        return word

    def _list(self, node: CardNode | None, key: str, most: int, least: int = 1) -> list[CardNode]:
        if node is None:
            return []
        if not isinstance(node.value, list):
            self.fault(node, key, f"it is {_shown(node)}", "a list")
            return []
        if not least <= len(node.value) <= most:
            what = f"it has {len(node.value):,} entries" if node.value else "it is empty"
            self.fault(node, key, what, f"{least} to {most} entries")
            return []
        return node.value

    def _mapping(self, node: CardNode | None, key: str) -> dict[str, CardNode]:
        if node is None or (least := isinstance(node.value, dict) and node.value) == {}:
            return {}
        if not least:
            self.fault(node, key, f"it is {_shown(node)}", "keys and values")
            return {}
        return least

    def _texts(self, node: CardNode | None, key: str, most: int) -> tuple[str, ...]:
        words = [
            self._text(item, f"{key}[{i}]", TITLE)
            for i, item in enumerate(self._list(node, key, most))
        ]
        if len(set(words)) < len(words) and None not in words:
            self.fault(node, key, "an entry is there twice", "each once")
        return tuple(word for word in words if word is not None)

    def _modalities(self, node: CardNode | None, key: str) -> tuple[str, ...]:
        words = [
            self._one_of(item, f"{key}[{i}]", MODALITIES)
            for i, item in enumerate(self._list(node, key, len(MODALITIES)))
        ]
        if len(set(words)) < len(words) and None not in words:
            self.fault(node, key, "an entry is there twice", "each once")
        return tuple(word for word in MODALITIES if word in words)

    def _whole(self, node: CardNode | None, key: str, least: int, most: int) -> int | None:
        if node is None:
            return None
        plain = isinstance(node.value, str) and node.plain and _WHOLE.fullmatch(node.value)
        if plain and isinstance(node.value, str) and least <= int(node.value) <= most:
            return int(node.value)
        self.fault(node, key, f"it is {_shown(node)}", f"a whole number from {least:,} to {most:,}")
        return None

    def _parameters(self, node: CardNode | None) -> int | None:
        if node is not None and _is_nothing(node):
            return None
        return self._whole(node, "parameters", 0, MOST_PARAMETERS)

    def _number(self, node: CardNode, key: str, most: float, expected: str) -> float | None:
        """A number from 0 on."""
        if isinstance(node.value, str) and node.plain and _NUMBER.fullmatch(node.value):
            number = float(node.value)
            if math.isfinite(number) and 0 <= number <= most:
                return number
        self.fault(node, key, f"it is {_shown(node)}", expected)
        return None

    def _training_data(self, node: CardNode | None) -> tuple[TrainingData, ...]:
        data: list[TrainingData] = []
        seen: dict[tuple[str, str], str] = {}
        for i, item in enumerate(self._list(node, "training_data", MOST_DATA, 0)):
            where = f"training_data[{i}]"
            if not isinstance(item.value, dict):
                self.fault(item, where, f"it is {_shown(item)}", "source and split")
                continue
            fields = self._fields(item.value, f"{where}.", ("source",), ("split",))
            source = self._text(fields.get("source"), f"{where}.source", TITLE)
            split = fields.get("split")
            word = None
            if split is not None and not _is_nothing(split) and split.value != "":
                word = self._text(split, f"{where}.split", TITLE)
            data.append(TrainingData(source or "", word or ""))
            part = (word or "").casefold()
            key = (_same_name(source or ""), SPLIT_ALIASES.get(part, part))
            if source and key in seen:
                what = f"it is the same as {seen[key]}, by another name or not"
                self.fault(item, where, what, "each source and split once", "leave one of them out")
            seen.setdefault(key, where)
        return tuple(data)

    def _flags(
        self, node: CardNode | None, runs: CardNode | None, training_data: Sequence[TrainingData]
    ) -> dict[str, bool]:
        sources, all_named = _sources(runs)
        flags: dict[str, bool] = {}
        trained = {_same_name(data.source): data.source for data in training_data if data.source}
        given = self._mapping(node, "zero_shot")
        for key, flag in given.items():
            where = f"zero_shot.{ascii(key)[1:-1][:64]}"
            if key not in sources and all_named:
                expected = "sources of the runs: " + ", ".join(sources)
                self.fault(flag, "zero_shot", f"no run is of {ascii(key)[:80]}", expected)
            elif flag.value not in ("true", "false") or not flag.plain:
                self.fault(flag, where, f"it is {_shown(flag)}", "true or false")
            else:
                flags[key] = flag.value == "true"
                if flags[key] and (data := trained.get(_same_name(key))):
                    what = f"it is true, and the training data hold {data}"
                    expected = "false, if any part of this source was trained on; else no such data"
                    self.fault(flag, where, what, expected)
        if node is not None:
            for source in sources:
                if source not in given:
                    self.fault(
                        node, "zero_shot", f"{source} is lacking", "true or false for each source"
                    )
        return flags

    def _links(self, node: CardNode | None) -> dict[str, str]:
        links = {}
        for key, item in self._mapping(node, "links").items():
            if key not in LINKS:
                self.fault(
                    item,
                    "links",
                    f"there is no link {ascii(key)[:80]}",
                    "one of " + ", ".join(LINKS),
                )
                continue
            word = self._word(item, f"links.{key}")
            if word is not None and (fault := link_fault(word)):
                self.fault(
                    item, f"links.{key}", f"{_shown(item)}: {fault}", "https://example.org/page"
                )
            elif word is not None:
                links[key] = word
        return {key: links[key] for key in LINKS if key in links}

    def _runs(self, node: CardNode | None) -> tuple[SubmittedRun, ...]:
        runs: list[SubmittedRun] = []
        for i, item in enumerate(self._list(node, "runs", MOST_RUNS)):
            where = f"runs[{i}]"
            if not isinstance(item.value, dict):
                self.fault(item, where, f"it is {_shown(item)}", "a run's fields")
                continue
            run = self._run(item, where)
            if run is None:
                continue
            if any((run.source, run.split) == (one.source, one.split) for one in runs):
                self.fault(item, where, f"{run.source}/{run.split} is there twice", "each once")
            runs.append(run)
        return tuple(sorted(runs, key=lambda run: (run.source, run.split)))

    def _run(self, node: CardNode, where: str) -> SubmittedRun | None:
        assert isinstance(node.value, dict)
        fields = self._fields(node.value, f"{where}.", RUN_REQUIRED, RUN_OPTIONAL)

        def word(key: str, pattern: str, expected: str) -> str | None:
            return self._matching(fields.get(key), f"{where}.{key}", pattern, expected)

        source = word("source", "source", "a source's name, such as okvqa")
        split = word("split", "split", "a split's name, such as test")
        edition = word("edition", "edition", "an edition's name")
        fingerprint = word("fingerprint", "fingerprint", "the eval fingerprint of a result: fp1:…")
        sha256 = word(
            "run_sha256", "sha256", "run_sha256 of a result: 64 hex digits in small letters"
        )
        file = self._word(fields.get("file"), f"{where}.file")
        allowed = [f"runs/{source}.{split}{suffix}" for suffix in SUFFIXES]
        if file is not None and source and split and file not in allowed:
            self.fault(
                fields["file"],
                f"{where}.file",
                f"it is {_shown(fields['file'])}",
                " or ".join(allowed),
            )
        k = self._whole(fields.get("k"), f"{where}.k", 1, DEEPEST)
        scores, cost = (
            self._scores(fields.get("scores"), where),
            self._cost(fields.get("cost"), where),
        )
        if None in (source, split, edition, fingerprint, sha256, file, k):
            return None
        return SubmittedRun(
            source=str(source),
            split=str(split),
            edition=str(edition),
            file=str(file),
            fingerprint=str(fingerprint),
            k=k or 0,
            run_sha256=str(sha256),
            scores=scores,
            cost=cost,
        )

    def _scores(self, node: CardNode | None, where: str) -> dict[str, float]:
        scores = {}
        for key, item in self._mapping(node, f"{where}.scores").items():
            if not re.fullmatch(PATTERNS["metric"], key, re.ASCII):
                self.fault(
                    item,
                    f"{where}.scores",
                    f"there is no metric {ascii(key)[:80]}",
                    "such as hit_rate@5",
                )
                continue
            expected = "a number from 0 to 1 (0.87, not 87), all digits of the result"
            number = self._number(item, f"{where}.scores.{key}", 1, expected)
            if number is not None:
                scores[key] = number
        return dict(sorted(scores.items()))

    def _cost(self, node: CardNode | None, where: str) -> dict[str, Any]:
        cost: dict[str, Any] = {}
        known: dict[str, Callable[[CardNode, str], Any]] = {
            key: lambda item, at: self._number(item, at, MOST_COST, "a number from 0 on")
            for key in COSTS
        }
        known["device"] = lambda item, at: self._text(item, at, TITLE)
        for key, item in self._mapping(node, f"{where}.cost").items():
            if key not in known:
                expected = "one of " + ", ".join(known)
                self.fault(item, f"{where}.cost", f"there is no cost {ascii(key)[:80]}", expected)
            elif not _is_nothing(item):
                cost[key] = known[key](item, f"{where}.cost.{key}")
        return {key: cost[key] for key in known if key in cost}


TEXTS = {"title": TITLE, "version": 40, "hardware": WORDS}
REQUIRED = (
    "format",
    "name",
    "title",
    "version",
    "authors",
    "contact",
    "licence",
    "kind",
    "query_modalities",
    "passage_modalities",
    "parameters",
    "training_data",
    "zero_shot",
    "hardware",
    "m2kr_version",
    "runs",
)
OPTIONAL = ("links", "note")
RUN_REQUIRED = ("source", "split", "edition", "file", "fingerprint", "k", "run_sha256")
RUN_OPTIONAL = ("scores", "cost")


def _sources(runs: CardNode | None) -> tuple[list[str], bool]:
    """The sources that runs name, whether all else of them holds or not; and whether each run names one."""
    items = runs.value if runs is not None and isinstance(runs.value, list) else []
    words = [
        item.value["source"].value
        if isinstance(item.value, dict) and "source" in item.value
        else ""
        for item in items
    ]
    named = [
        word
        for word in words
        if isinstance(word, str) and re.fullmatch(PATTERNS["source"], word, re.ASCII)
    ]
    return list(dict.fromkeys(named)), bool(items) and len(named) == len(words)


def _same_name(name: str) -> str:
    """What spellings of one source's name have in common; names in other scripts have no short form."""
    return normalise(name) or name.casefold()


def _is_nothing(node: CardNode) -> bool:
    return node.plain and node.value in _NOTHING


def _shown(node: CardNode) -> str:
    """A value as a message names it."""
    if isinstance(node.value, list):
        return "a list"
    if isinstance(node.value, dict):
        return "a mapping"
    if _is_nothing(node):
        return "empty"
    quoted = ascii(node.value)
    return (quoted if len(quoted) <= 80 else quoted[:79] + "…") + (
        "" if node.plain else " in quotes"
    )


def read_card(path: Path) -> SystemCard:
    """Reads a card; nothing in it is executed.

    Args:
        path: ``system.yaml``.

    Raises:
        SubmissionRefused: It is no card; all faults at once.
    """
    root = parse_card_yaml(read_small_file(path, MOST_BYTES))
    reader = _CardReader()
    card = reader.card(root)
    if card is None:
        raise SubmissionRefused(reader.told())
    return card


def read_small_file(path: Path, most: int) -> bytes:
    """A plain file's bytes; never through a link, never from a device or pipe.

    Raises:
        SubmissionRefused: It is not there, no plain file, or longer than ``most`` bytes.
    """
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        fd = os.open(path, flags | getattr(os, "O_BINARY", 0))
    except OSError as error:
        what = f"it can't be read: {error.strerror}"
        raise SubmissionRefused([_layout(path, what)]) from error
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        os.close(fd)
        raise SubmissionRefused([_layout(path, "it is no plain file")])
    with os.fdopen(fd, "rb") as file:
        if status.st_size > most:
            raise SubmissionRefused(
                [_layout(path, f"it has {status.st_size:,} bytes", f"at most {most:,}")]
            )
        return file.read(most + 1)


def _layout(path: Path, what: str, expected: str = "a plain file") -> Problem:
    return Problem("layout", path.name, what, expected, "m2kr submit init makes a right submission")
