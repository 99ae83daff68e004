"""What cache keys of shipped encoders hold: each file that is read, and a version in place of code."""

import shutil
from pathlib import Path

import pytest
from retrievers.conftest import SETTINGS

from m2kr.data.records import Passages, Queries
from m2kr.errors import InputError, MissingError
from m2kr.retrieval.cache import key_of
from m2kr.retrieval.encoder import EncoderRetriever
from m2kr.retrievers import create
from m2kr.retrievers._sentence_encoder import MINILM


def encoder(name: str, **settings: object) -> EncoderRetriever:
    try:
        made = create(name, settings)
    except MissingError as error:
        pytest.skip(str(error))
    assert isinstance(made, EncoderRetriever)
    return made


@pytest.fixture
def minilm(tmp_path: Path) -> Path:
    from m2kr.preflmr.inputs.local_files import packaged

    try:
        source = packaged(MINILM, "model", "this test")
    except MissingError as error:
        pytest.skip(str(error))
    target = tmp_path / "minilm"
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("model.safetensors"))
    (target / "model.safetensors").write_bytes(b"weights")
    return target


def keys(name: str, setting: str, folder: Path, *records: Passages | Queries) -> list[object]:
    one = encoder(name, **{setting: str(folder)})
    sides = ("document" if isinstance(each, Passages) else "query" for each in records)
    return [key_of(one, each, side) for each, side in zip(records, sides, strict=True)]  # type: ignore[arg-type]


def test_dense_text_is_known_by_all_that_it_reads(
    minilm: Path, tmp_path: Path, passages: Passages, queries: Queries
) -> None:
    def of(folder: Path) -> list[object]:
        return keys("dense_text", "model", folder, passages, queries)

    first = of(minilm)
    assert None not in first
    for path in sorted(p for p in minilm.iterdir() if p.is_file()):
        data = path.read_bytes()
        path.write_bytes(data + b"\n")
        same = path.suffix == ".md" or path.name.startswith(".")
        assert [a == b for a, b in zip(of(minilm), first, strict=True)] == [same, same], path.name
        path.write_bytes(data)
    assert of(minilm) == first
    (minilm / "adapter_config.json").write_text("{}")
    assert of(minilm) != first
    (minilm / "adapter_config.json").unlink()
    moved = minilm.rename(tmp_path / "moved")
    assert of(moved) == first


@pytest.mark.parametrize("name", ["preflmr", "flmr"])
def test_late_interaction_is_known_by_all_that_it_reads(
    name: str, tmp_path: Path, passages: Passages, queries: Queries
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(str(SETTINGS[name]["checkpoint"]), folder)

    def of() -> list[object]:
        return keys(name, "checkpoint", folder, passages, queries)

    first = of()
    files = [p for p in folder.rglob("*") if p.suffix in (".json", ".txt")]
    for path in files:
        data = path.read_bytes()
        path.write_bytes(data + b"\n")
        assert all(a != b for a, b in zip(of(), first, strict=True)), path.name
        path.write_bytes(data)
    assert len(files) > 3
    assert of() == first


def test_image_concepts_is_known_by_both_models_and_the_names(
    passages: Passages, queries: Queries
) -> None:
    one, fewer = encoder("image_concepts"), encoder("image_concepts", concepts=3)
    document, query = key_of(one, passages, "document"), key_of(one, queries, "query")
    assert document is not None
    assert query is not None
    assert key_of(fewer, passages, "document") == document
    assert key_of(fewer, queries, "query") != query
    assert {"names_sha256", "image_encoder", "text_encoder"} < set(query["settings"])
    assert "files_sha256" in document["settings"]


@pytest.mark.parametrize("name", ["dense_text", "image_concepts", "preflmr", "flmr"])
def test_a_shipped_encoder_is_known_by_its_version(
    name: str, passages: Passages, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = encoder(name, **SETTINGS.get(name, {}))
    key = key_of(one, passages, "document")
    assert key is not None
    kind = next(each for each in type(one).__mro__ if "version" in vars(each))
    assert key["encoder"] == [[kind.__qualname__, 1]]
    for module in ("m2kr", "m2kr._version"):
        monkeypatch.setattr(f"{module}.__version__", "99.0")
    assert key_of(one, passages, "document") == key


def test_files_that_are_written_between_hash_and_use_are_refused(
    tmp_path: Path, passages: Passages, queries: Queries
) -> None:
    """Else rows of the new checkpoint would be kept as those of the old one."""
    folder = tmp_path / "model"
    shutil.copytree(str(SETTINGS["preflmr"]["checkpoint"]), folder)
    one = encoder("preflmr", checkpoint=str(folder), device="cpu")
    before = key_of(one, passages, "document")
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights)
    with pytest.raises(InputError, match="written while it was in use"):
        one.index(passages, workdir=tmp_path / "work")
    other = encoder("preflmr", checkpoint=str(folder), device="cpu")
    assert key_of(other, passages, "document") == before
    # In one process, a checkpoint after another in the same folder: each has its own key.
    changed = bytearray(weights)
    changed[-1] ^= 1
    (folder / "model.safetensors").write_bytes(changed)
    last = encoder("preflmr", checkpoint=str(folder), device="cpu")
    assert key_of(last, passages, "document") != before


def test_what_is_written_over_a_loaded_model_is_no_part_of_a_result(
    minilm: Path, passages: Passages
) -> None:
    one = encoder("dense_text", model=str(minilm))
    settings, key = dict(one.settings), key_of(one, passages, "document")
    (minilm / "model.safetensors").write_bytes(b"a later checkpoint")
    assert dict(one.settings) == settings
    assert key_of(one, passages, "document") == key
    assert dict(encoder("dense_text", model=str(minilm)).settings) != settings
