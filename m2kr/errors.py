"""Errors that tell a user what happened, where, what was expected and what to do next."""


class M2KRError(Exception):
    """Base of every error m2kr raises on purpose.

    Args:
        what: What happened, in one sentence.
        where: The file, row or field it happened at, as the user would write it.
        expected: What a right value looks like.
        fix: What to do next, if possible a command to copy.

    The command line turns the class into its exit code (``exit_code``) and prints ``str(error)``.
    """

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        expected: str | None = None,
        fix: str | None = None,
    ) -> None:
        self.what = what
        self.where = where
        self.expected = expected
        self.fix = fix
        super().__init__(what, where, expected, fix)

    def __reduce__(self) -> "tuple[object, tuple[object, ...]]":
        # Exceptions come back from other processes by their positional arguments; ours have one.
        return _again, (type(self), self.what, self.where, self.expected, self.fix)

    def __str__(self) -> str:
        lines = [f"{self.where}: {self.what}" if self.where else self.what]
        if self.expected:
            lines.append(f"  expected: {self.expected}")
        if self.fix:
            lines.append(f"  try:      {self.fix}")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, str | None]:
        """The same facts for ``--json``."""
        return {
            "error": type(self).__name__,
            "what": self.what,
            "where": self.where,
            "expected": self.expected,
            "fix": self.fix,
        }


def _again(
    kind: type[M2KRError], what: str, where: str | None, expected: str | None, fix: str | None
) -> M2KRError:
    return kind(what, where=where, expected=expected, fix=fix)


class InputError(M2KRError):
    """A file, record or argument value that m2kr was given is wrong (exit 1)."""


class CheckError(M2KRError):
    """A check found something wrong: a hash, a count, an id (exit 1)."""


class UsageError(M2KRError):
    """The command or call itself is wrong: an unknown name, options that clash (exit 2)."""

    exit_code = 2


class MissingError(M2KRError):
    """Data, images or a dependency are not on this machine (exit 3)."""

    exit_code = 3


class UpstreamError(M2KRError):
    """A download failed or upstream served something else than expected (exit 4)."""

    exit_code = 4


def missing_dependency(package: str, extra: str, needed_for: str) -> MissingError:
    """The error for an optional package that is not installed.

    Args:
        package: Import or distribution name that is absent.
        extra: The m2kr extra that installs it.
        needed_for: What the user was doing.
    """
    return MissingError(
        f"{needed_for} needs the package '{package}', which is not installed",
        fix=f"pip install 'm2kr[{extra}]'" + torch_hint(extra),
    )


def torch_hint(extra: str) -> str:
    """How to keep a CPU machine free of the CUDA build, for extras that need torch."""
    if extra in {"models", "demo"}:
        return "   (install torch first to choose its build: see 'Install' in the README)"
    return ""
