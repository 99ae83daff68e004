"""Readers that users bring, and the check of what any reader says."""

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING, Any, cast

from m2kr.errors import InputError, M2KRError, MissingError, UsageError
from m2kr.rag.reader import Answer, Reader, ReaderBase, ReadRequest, RetrievedPassage
from m2kr.retrieval.cache import encoder_identity, source_sha256
from m2kr.retrieval.own_code import (
    load_file,
    load_module,
    own_code,
    remember_home,
    user_attribute,
)
from m2kr.retrievers._settings import arguments, split_off
from m2kr.unicode_halves import mended_json, mended_text

if TYPE_CHECKING:
    from PIL.Image import Image

FORMS = "a reader's name, package.module:Class or file.py:Class"
_ASKED = ("image", "question", "passages")
_SECRET = re.compile(r"(^|_)(key|token|secret|password|passwd|credential)s?$", re.I)


def open_own_reader(spec: str, settings: Mapping[str, object] | None = None) -> Reader:
    """The reader that a user's class, or function of image, question and passages, makes.

    Args:
        spec: ``file.py:Class`` or ``package.module:Class``; runs the user's code.
        settings: Arguments of its ``__init__``; strings are turned into the annotated types.

    Raises:
        MissingError: there is no such file or module.
        InputError: it can't be imported, has no such class, or that is no reader.
        UsageError: an unknown setting, or a value of another type.
        RetrieverError: its own code raised something.
    """
    source, _, name = spec.rpartition(":")
    try:
        module, home = (load_file if source.endswith(".py") else load_module)(source)
    except MissingError as error:
        raise MissingError(error.what, where=error.where, expected=FORMS, fix=error.fix) from error
    factory = getattr(module, name, None)
    if not callable(factory):
        own = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        has = [n for n in own if getattr(vars(module)[n], "__module__", "") == module.__name__]
        raise InputError(
            f"there is no '{name}'", where=spec, expected="one of " + (", ".join(has) or "(none)")
        )
    remember_home(factory, home)
    where = f"reader {spec}"
    if not isinstance(factory, type):
        named = arguments(factory)
        takes = {key for key, argument in named.items() if argument.default is argument.empty}
        if set(_ASKED) <= set(named):
            if settings:
                raise UsageError(
                    "a function has no settings", where=where, expected="a class for them"
                )
            return OwnReader(factory, where)
        if takes & set(_ASKED):
            raise InputError(
                f"the function takes no {' and no '.join(a for a in _ASKED if a not in named)}",
                where=where,
                expected=f"{name}({', '.join(_ASKED)})",
            )
    given, attributes = split_off(factory, settings or {}, where)
    with own_code(factory, f"making {name}({', '.join(given)})"):
        made = factory(**given)
        for key, value in attributes.items():
            setattr(made, key, value)
    remember_home(type(made), home)
    return OwnReader(made, where, given)


def adapted_reader(given: object) -> Reader:
    """A reader for an object of the user's: itself if it is one of ours.

    Raises:
        InputError: it can't answer.
    """
    ours = type(given).__module__.partition(".")[0] == "m2kr" and type(given) is not ReaderBase
    if ours and isinstance(given, Reader):
        return given
    return OwnReader(given, f"reader {getattr(given, 'name', type(given).__name__)}")


class OwnReader(ReaderBase):
    """A user's reader, with what it leaves out and its errors told as its own.

    It needs ``answer(image, question, passages)``, which gives a text, a text and a score, or an
    `Answer`; or it is that function itself. ``name``, ``sees_images`` (True), ``batch`` (1), ``facts()``
    and ``answers(requests)`` may be added. Kept answers are found by its facts and its source, so that
    they are asked anew once its file (or a neighbour that it imports) is edited; facts with a ``version``
    stand for the source, and facts of its own for its settings.

    Args:
        made: What the user's code made.
        where: How errors name it.
        settings: What it was made with.

    Raises:
        InputError: it can't answer, or describes itself in a form that can't be read.
    """

    def __init__(
        self, made: object, where: str, settings: Mapping[str, object] | None = None
    ) -> None:
        if isinstance(made, type):
            raise InputError(
                f"{made.__name__} is a class, not a reader",
                where=where,
                expected=f"{made.__name__}()",
            )
        self._made, self._where = made, where
        function = not hasattr(made, "answer") and callable(made)
        self._answer = (
            made
            if function
            else user_attribute(made, "answer")
            if hasattr(made, "answer")
            else None
        )
        several = (
            None
            if isinstance(made, ReaderBase) and _inherits(made, "answers")
            else getattr(made, "answers", None)
        )
        self._several: Any = several
        if not callable(self._answer) or (_inherits(made, "answer") and several is None):
            raise InputError(
                f"{type(made).__name__} has no answer(image, question, passages)",
                where=where,
                expected="a class with that method, or such a function",
                fix="subclass m2kr.rag.reader.ReaderBase",
            )
        kind = made.__name__ if function else type(made).__name__  # type: ignore[attr-defined]
        self.name = self._value("name", str, kind) or kind
        self.sees_images = self._value("sees_images", bool, True)
        self.batch = self._value("batch", int, 1)
        if self.batch < 1:
            raise InputError(f"its batch is {self.batch}", where=where, expected="at least 1")
        self._facts = self._described(settings or {})

    def _value(self, name: str, kind: type, default: Any) -> Any:
        if not hasattr(type(self._made), name) and name not in getattr(self._made, "__dict__", {}):
            return default
        value = user_attribute(self._made, name)
        if type(value) is not kind:
            raise InputError(
                f"its {name} is {value!r}", where=self._where, expected=f"a value like {default!r}"
            )
        return mended_text(value).strip() if isinstance(value, str) else value

    def _described(self, settings: Mapping[str, object]) -> dict[str, Any]:
        made = self._made
        own: Mapping[str, Any] | None = None
        if hasattr(made, "facts") and not _inherits(made, "facts"):
            with own_code(made, f"{type(made).__name__}.facts"):
                own = made.facts()
            own = checked_facts(own, self._where)
        facts: dict[str, Any] = {"name": self.name, **(own or {})}
        if own is None:
            plain = {
                key: str(value) if isinstance(value, Path) else value
                for key, value in settings.items()
                if not (_SECRET.search(key) and isinstance(value, str) and not value.isdigit())
            }
            facts["settings"] = checked_facts(plain, self._where)
        if "version" not in facts:
            facts["source"] = _identity(made)
        return facts

    def facts(self) -> Mapping[str, Any]:
        """What it says of itself, its settings and its source."""
        return self._facts

    def answer(
        self, image: "Image | None", question: str, passages: Sequence[RetrievedPassage]
    ) -> Answer:
        """What its own ``answer`` says, as it is."""
        answer = cast("Callable[..., Answer]", self._answer)
        with own_code(self._made, f"answering {question[:80]!r}"):
            return answer(image, question, passages)

    def answers(self, requests: Sequence[ReadRequest]) -> Iterator[tuple[int, Answer]]:
        """What its own ``answers`` says, or one after the other."""
        if self._several is None:
            for number, request in enumerate(requests):
                with own_code(self._made, f"answering question '{request.question_id}'"):
                    said = cast("Any", self._answer)(
                        request.image, request.question, request.passages
                    )
                yield number, said
            return
        first = requests[0].question_id if requests else ""
        with own_code(self._made, f"answering {len(requests)} questions from '{first}' on"):
            several = iter(self._several(requests))
        while True:
            with own_code(self._made, f"answering {len(requests)} questions from '{first}' on"):
                one = next(several, None)
            if one is None:
                return
            yield one


def _identity(made: object) -> Any:
    """What tells one state of a user's code from another: its files, or else what they were compiled to."""
    function = getattr(made, "__code__", None)
    known = source_sha256(made) if function else encoder_identity(type(made))
    if known is not None:
        return known
    codes = [function] if function else [
        getattr(value, "__code__", None)
        for kind in type(made).__mro__
        for _, value in sorted(vars(kind).items())
    ]  # fmt: skip
    digest = hashlib.sha256()
    for code in filter(None, codes):
        _add_code(digest, code)
    return digest.hexdigest()


def _add_code(digest: "hashlib._Hash", code: CodeType) -> None:
    """Adds what code does, and not where it lies."""
    digest.update(code.co_code)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            _add_code(digest, constant)
        else:
            digest.update(repr(constant).encode("utf-8", "surrogatepass"))
    digest.update(repr((code.co_names, code.co_varnames, code.co_freevars)).encode())


def _inherits(made: object, method: str) -> bool:
    """Whether a method is the one of `ReaderBase`."""
    return getattr(type(made), method, None) is getattr(ReaderBase, method)


def checked_facts(facts: object, where: str) -> dict[str, Any]:
    """Facts as they will be read back from JSON.

    Raises:
        InputError: they are no mapping, or can't be written as JSON.
    """
    try:
        if not isinstance(facts, Mapping):
            raise TypeError(f"they are of type {type(facts).__name__}")
        text = json.dumps(dict(facts), allow_nan=False, sort_keys=True)
        plain: dict[str, Any] = json.loads(mended_json(text.encode()))
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"its facts can't be written as JSON: {error}",
            where=where,
            expected="a dict of numbers, texts, true, false, null, lists and objects",
        ) from error
    return plain


def read_all(reader: Reader, requests: Sequence[ReadRequest]) -> Iterator[tuple[int, Answer]]:
    """A reader's answers to some requests, each checked, in the order in which they come.

    Raises:
        InputError: it gives what is no answer, one too many or too few; names reader and question.
        M2KRError: it can't answer.
    """
    where = f"reader {reader.name}"
    left = dict(enumerate(requests))
    for one in reader.answers(requests):
        try:
            number, said = one
        except (TypeError, ValueError) as error:
            raise InputError(
                f"answers gave {_shown(one)}",
                where=where,
                expected="pairs of a request's number and its answer",
            ) from error
        if type(number) is not int or number not in left:
            raise InputError(
                f"answers gave the number {number!r} of {len(requests)} requests",
                where=where,
                expected="the number of each request once, from 0",
            )
        request = left.pop(number)
        yield number, checked_answer(said, request, where)
    if left:
        raise InputError(
            f"gave no answer to {len(left)} of {len(requests)} questions, such as "
            f"'{next(iter(left.values())).question_id}'",
            where=where,
            expected="an answer to each; an empty text if it has none",
        )


def checked_answer(said: object, request: ReadRequest, where: str) -> Answer:
    """What a reader said as an answer that can be kept.

    Args:
        said: A text, a text and a score, or an `Answer`.
        request: What was asked.
        where: The reader, for errors.

    Raises:
        InputError: it is something else, or a part of it is; names reader and question.
    """

    def wrong(what: str, expected: str) -> M2KRError:
        return InputError(
            what, where=f"{where}, question '{request.question_id}'", expected=expected
        )

    forms = "a text, a text and a score, or an Answer"
    if isinstance(said, str):
        said = Answer(said)
    elif isinstance(said, tuple | list) and len(said) == 2:
        said = Answer(*said)
    if not isinstance(said, Answer):
        raise wrong(f"the answer is {_shown(said)}", forms)
    if not isinstance(said.text, str):
        raise wrong(f"the answer's text is {_shown(said.text)}", forms)
    numbers: dict[str, Any] = {}
    for name, least in (
        ("score", -math.inf),
        ("dollars", 0.0),
        ("input_tokens", 0),
        ("output_tokens", 0),
    ):
        value = numbers[name] = getattr(said, name)
        if value is None and name != "score":
            continue
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError) as error:
            raise wrong(f"the answer's {name} is {_shown(value)}", "a number") from error
        if not math.isfinite(number) or number < least or isinstance(value, str | bool):
            raise wrong(f"the answer's {name} is {_shown(value)}", "a finite number")
        numbers[name] = int(number) if name.endswith("tokens") else number
    ids = [passage.passage_id for passage in request.passages]
    if said.passage_id is not None and said.passage_id not in ids:
        raise wrong(
            f"the answer is read from passage {said.passage_id!r}",
            "one of the passages it was given",
        )
    try:
        detail = checked_facts(said.detail, where)
    except InputError as error:
        raise wrong(f"the answer's detail: {error.what}", "plain JSON values") from error
    return Answer(
        mended_text(said.text).strip(), passage_id=said.passage_id, detail=detail, **numbers
    )


def _shown(value: object) -> str:
    if isinstance(value, str | int | float | bool | type(None)):
        return repr(value)[:80]
    return f"a value of type {type(value).__name__}"
