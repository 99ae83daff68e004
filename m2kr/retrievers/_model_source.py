"""Where a model of somebody's comes from: a folder or a hub id, and what it is known by."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from m2kr.errors import M2KRError, MissingError, UsageError, one_line
from m2kr.retrieval.clock import loading
from m2kr.retrievers._models import ModelFiles

# A model folder's own files lie at most this deep: sentence-transformers has a folder for each module.
_PATTERNS = ("*", "*/*", "*/*/*")


class ModelSource:
    """A model's folder or hub id.

    Args:
        model: As the user named it.
        revision: A hub id's branch, tag or commit; by default its main branch.

    Raises:
        UsageError: A revision of a folder, which has none.

    Attributes:
        model: As it was given.
        local: Whether it is a folder.
        load_from: What a library's ``from_pretrained`` is given.
    """

    def __init__(self, model: str, revision: str | None = None) -> None:
        folder = Path(model).expanduser()
        self.model, self.local, self._revision = model, folder.is_dir(), revision
        if self.local and revision is not None:
            raise UsageError(
                f"the model is a folder, and a folder has no revision '{revision}'",
                where=model,
                fix="leave out the revision, or give a hub id",
            )
        self._folder = folder.resolve() if self.local else folder
        self.load_from = str(self._folder) if self.local else model
        self._commit: str | None = None

    @cached_property
    def _files(self) -> ModelFiles:
        """All that may be read of a folder; none of a hub id."""
        every = (p for pattern in _PATTERNS for p in self._folder.glob(pattern) if self.local)
        return ModelFiles(
            self._folder,
            [p for p in every if p.is_file() and p.name[0] != "." and p.suffix != ".md"],
        )

    @cached_property
    def _files_sha256(self) -> str:
        digest = self._files.sha256()
        self._files.require_unchanged()
        return digest

    def facts(self, load: Callable[[], object]) -> dict[str, Any]:
        """What a result says of the model: its name, and the hash of its files or its revision.

        Args:
            load: Loads it; only then is a hub id's revision known.
        """
        if self.local:
            return {"model": Path(self.load_from).name, "files_sha256": self._files_sha256}
        load()
        return {"model": self.model, "revision": self._commit}

    def cache_key(self, facts: dict[str, Any]) -> dict[str, Any] | None:
        """Of `facts` with all else that decides an encoding; None if the revision isn't known."""
        if self.local:  # a folder is known by its files, wherever it lies
            return {name: value for name, value in facts.items() if name != "model"}
        return facts if facts.get("revision") else None

    @contextmanager
    def loading(self, what: str, expected: str) -> Iterator[dict[str, Any]]:
        """Loads inside: gives the arguments of ``from_pretrained``, and puts its errors in words.

        Args:
            what: ``dual encoder``, for the error.
            expected: What a folder should hold.

        Raises:
            MissingError: it can't be loaded.
            UsageError: it is made by code of its own, which is never run.
            InputError: its files were written meanwhile.
        """
        from transformers.utils import logging as tf_logging

        bars: Any = tf_logging
        shown = bars.is_progress_bar_enabled()
        bars.disable_progress_bar()
        try:
            if self.local:
                self._files  # noqa: B018 - their stamps, before anything is read
            else:
                require_on_hub(self.load_from, what, self._revision)
            refuse_code(self.load_from, self.local, self._revision)
            # Said outright: transformers asks at the terminal where it isn't.
            with loading():
                how = {"local_files_only": self.local, "trust_remote_code": False}
                yield how if self._revision is None else how | {"revision": self._revision}
        except M2KRError:
            raise
        except Exception as error:  # whatever a library raises for a file that is no such thing
            raise MissingError(
                f"no {what} can be loaded: {one_line(error)}",
                where=self.load_from,
                expected=f"{expected}, or a hub id",
            ) from error
        finally:
            if shown:
                bars.enable_progress_bar()
        self._files.require_unchanged()

    def remember(self, config: object) -> None:
        """Remembers the revision of a hub's model from a configuration that was loaded."""
        self._commit = getattr(config, "_commit_hash", None)


def require_on_hub(name: str, what: str, revision: str | None = None) -> None:
    """Asks the hub for a model once: libraries ask file by file, and for minutes where it can't be reached.

    Raises:
        MissingError: neither the hub nor its cache on this machine has it.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
    )
    from huggingface_hub.utils import logging

    hub_logging: Any = logging
    files = ("config.json", "modules.json")
    try:
        if any(
            isinstance(try_to_load_from_cache(name, file, revision=revision), str) for file in files
        ):
            return
        verbosity = hub_logging.get_verbosity()
        hub_logging.set_verbosity_error()
        try:
            hf_hub_download(name, files[0], revision=revision)
        finally:
            hub_logging.set_verbosity(verbosity)
    except EntryNotFoundError as error:
        if not isinstance(error, LocalEntryNotFoundError):
            return  # the model is there, and has no such file
        reason = "the hub can't be reached, and nothing of it is cached"
    except HFValidationError:
        reason = "not of the form OWNER/NAME"
    except (HfHubHTTPError, OSError, ValueError) as error:
        # A model that is not there or closed.
        reason = one_line(error)
    else:
        return
    raise MissingError(
        f"no {what} can be loaded: there is no such folder here, and as a hub id: {reason}",
        where=name,
        expected="a folder, or a hub id such as openai/clip-vit-base-patch32",
    )


def refuse_code(source: str, local: bool, revision: str | None = None) -> None:
    """Refuses a model that is made by Python files of its own: they would never be run.

    Raises:
        UsageError: its configuration names such files.
    """
    from transformers.utils.hub import cached_file

    for name in ("config.json", "tokenizer_config.json"):
        path = cached_file(
            source,
            name,
            local_files_only=local,
            revision=revision,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        if path is None:
            continue
        settings = json.loads(Path(path).read_bytes())
        if isinstance(settings, dict) and settings.get("auto_map"):
            raise UsageError(
                f"{name} names code of its own (auto_map), and a model's code is never run",
                where=source,
                expected="a model of a class that transformers has, such as BertModel",
            )
