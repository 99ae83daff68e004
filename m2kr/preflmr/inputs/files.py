"""Where a checkpoint lies: a local folder as it is, or a hub id's snapshot in the hub's cache."""

from pathlib import Path

from m2kr.errors import MissingError, UpstreamError, UsageError

#: What a checkpoint needs. Python files and pickled weights are never fetched.
_WANTED = ("*.json", "*.safetensors", "*/*.json", "*/vocab.txt", "vocab.txt")


def local_folder(checkpoint: "str | Path", revision: str | None = None) -> Path:
    """The folder of a checkpoint.

    Args:
        checkpoint: An existing folder, taken as it is without any network, or a hub id
            ``owner/name``, of which the files are fetched once into the hub's cache.
        revision: Commit, tag or branch of a hub id.

    Raises:
        MissingError: There is no such folder, or the hub has no such repository.
        UpstreamError: The hub can't be reached and the cache lacks the files.
        UsageError: A revision is given for a folder.
    """
    folder = Path(checkpoint)
    if folder.is_dir():
        if revision is not None:
            raise UsageError("a revision is given for a local folder", where=str(folder))
        if not (folder / "config.json").exists() and (folder / "model" / "config.json").exists():
            raise MissingError(
                "the folder is that of a training run, or of one of its checkpoints",
                where=str(folder),
                expected="the model in it",
                fix=str(folder / "model"),
            )
        return folder
    if isinstance(checkpoint, Path) or not _is_hub_id(str(checkpoint)):
        raise MissingError(
            "there is no such folder",
            where=str(checkpoint),
            expected="a checkpoint's folder, or a hub id such as LinWeizheDragon/PreFLMR_ViT-L",
        )
    return _snapshot(str(checkpoint), revision)


def _is_hub_id(name: str) -> bool:
    owner, slash, rest = name.partition("/")
    return bool(slash and owner.strip(".") and rest and "/" not in rest and "\\" not in name)


def _snapshot(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(_WANTED)))
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        raise MissingError(
            "there is no such folder, and the hub has no such repository or revision",
            where=name if revision is None else f"{name}@{revision}",
            fix="check the name; private repositories need: hf auth login",
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise UpstreamError(
            f"the checkpoint can't be fetched: {error}",
            where=name,
            fix="try again, or pass the folder of a local copy",
        ) from error
