"""The retrievers ``preflmr`` and ``flmr``, on tiny checkpoints of the official code."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from support.progress import Recorder

import m2kr
from m2kr.building import registry
from m2kr.building.build import build
from m2kr.data.images.store import ImageStore, black_image
from m2kr.data.records import Passages, Queries
from m2kr.errors import InputError, M2KRError, MissingError, UsageError
from m2kr.hashes import file_sha256
from m2kr.instructions import join_question
from m2kr.preflmr import PreFLMR
from m2kr.preflmr.encode.encoder import Encoder
from m2kr.retrieval.cache import key_of
from m2kr.retrieval.encoder import EncoderRetriever
from m2kr.retrieval.protocol import Retriever, RunContext
from m2kr.retrievers import create
from m2kr.search.exact.reference import maxsim
from m2kr.search.store.reader import TokenStore

from .conftest import QUERIES, passage_rows, query_row

GOLDEN = Path(__file__).parents[1] / "golden"
CHECKPOINTS = {"preflmr": GOLDEN / "tiny_preflmr", "flmr": GOLDEN / "tiny_flmr"}
Made = Callable[..., Retriever]
EVERY = pytest.mark.parametrize("name", CHECKPOINTS)


@pytest.fixture(autouse=True)
def few_threads() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def run_of(name: str, made: Made, passages: Passages, queries: Queries, **settings: object) -> Any:
    retriever = made(name, passages, checkpoint=str(CHECKPOINTS[name]), device="cpu", **settings)
    return retriever.search(queries, 20)


@EVERY
def test_scores_are_maxsim_of_the_model_one_row_at_a_time(
    name: str, made: Made, passages: Passages, queries: Queries
) -> None:
    model = PreFLMR.from_pretrained(CHECKPOINTS[name])
    assert model.query_tokenizer is not None
    assert model.context_tokenizer is not None
    assert model.image_processor is not None
    run = run_of(name, made, passages, queries)
    pool = {}
    with torch.no_grad():
        for row in passages.rows(range(len(passages))):
            tokens = model.context_tokenizer([row["passage_content"]])
            pool[row["passage_id"]] = model.doc(**tokens, keep_dims=False)[1][0].numpy()
        for row in queries.rows(range(len(queries))):
            text = row["question"]
            if name == "preflmr" or not text.strip():
                text = join_question(row["instruction"], text)
            # flmr reads an instruction alone as it is, without the colon that ends one.
            if name == "flmr" and not row["question"].strip():
                text = row["instruction"].strip()
            tokens = model.query_tokenizer([text])
            pixels = model.image_processor([queries.image(row) or black_image()])
            asked = model.query(**tokens, pixel_values=pixels)[1][0].numpy()
            got = run.to_dict()[row["question_id"]]
            assert set(got) == set(pool)
            for passage, matrix in pool.items():
                exact = maxsim(asked.astype(np.float16), matrix.astype(np.float16))
                assert got[passage] == pytest.approx(exact, abs=5e-3)


@EVERY
def test_batches_and_devices_do_not_change_the_ranking(
    name: str, made: Made, passages: Passages, queries: Queries
) -> None:
    whole = run_of(name, made, passages, queries)
    for settings in ({"token_budget": 1, "workers": 1}, {"device": "cpu,cpu", "token_budget": 99}):
        retriever = made(
            name, passages, **({"checkpoint": str(CHECKPOINTS[name]), "device": "cpu"} | settings)
        )
        other = retriever.search(queries, 20)
        for query in whole.query_ids:
            ours, theirs = whole.to_dict()[query], other.to_dict()[query]
            assert ours.keys() == theirs.keys()
            assert max(abs(ours[each] - theirs[each]) for each in ours) <= 1e-3


def test_equal_passages_get_equal_scores(made: Made, passages: Passages, queries: Queries) -> None:
    rows = run_of("preflmr", made, passages, queries).to_dict()
    for scores in rows.values():
        assert scores["p012"] == scores["p003"]  # one text under two ids


def test_images_and_instructions_are_read_as_told(
    made: Made, passages: Passages, queries: Queries
) -> None:
    blind = Queries(Dataset.from_list([dict(row) for row in QUERIES]), None, "fp1:blind")
    seeing = run_of("preflmr", made, passages, queries).to_dict()
    unseeing = run_of("preflmr", made, passages, blind).to_dict()
    assert seeing["text"] == unseeing["text"]
    assert seeing["both"] != unseeing["both"]
    bare = run_of("preflmr", made, passages, queries, instructions="false").to_dict()
    assert bare["text"] != seeing["text"]
    assert bare["nothing at all"] == seeing["nothing at all"]


@EVERY
def test_settings_name_what_changes_scores(name: str, made: Made, passages: Passages) -> None:
    folder = CHECKPOINTS[name]
    retriever = create(name, {"checkpoint": str(folder), "max_length": "30"})
    before = json.loads(json.dumps(dict(retriever.settings)))
    assert before["weights_sha256"] == file_sha256(folder / "model.safetensors")
    assert before["checkpoint"] == folder.name
    assert before["max_length"] == 30
    assert before["query_length"] == 32
    assert before["instructions"] is (name == "preflmr")
    assert before["dtype"] == "float32"
    made(name, passages, checkpoint=str(folder))
    assert retriever.settings == before
    assert retriever.modalities.as_dict() == {"query": ["image", "text"], "passage": ["text"]}


def test_any_file_that_is_read_changes_the_settings(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "tiny_flmr", tmp_path / "one")
    first = dict(create("flmr", {"checkpoint": str(tmp_path / "one")}).settings)
    shutil.copytree(tmp_path / "one", tmp_path / "two" / "one")
    path = tmp_path / "two" / "one" / "query_tokenizer" / "vocab.txt"
    path.write_text(path.read_text().replace("river", "rivre"))
    second = dict(create("flmr", {"checkpoint": str(tmp_path / "two" / "one")}).settings)
    assert first["files_sha256"] != second.pop("files_sha256")
    assert second == {k: v for k, v in first.items() if k != "files_sha256"}


def test_lower_precision_is_a_setting(made: Made, passages: Passages, queries: Queries) -> None:
    full = run_of("preflmr", made, passages, queries).to_dict()
    low = run_of("preflmr", made, passages, queries, dtype="bfloat16").to_dict()
    assert low != full
    ours, theirs = (np.array([v for _, v in sorted(x["both"].items())]) for x in (full, low))
    assert np.abs(ours - theirs).max() <= 0.02 * np.abs(ours).max()


def test_progress_and_seconds_are_reported(passages: Passages, tmp_path: Path) -> None:
    retriever: Any = create("flmr", {"checkpoint": str(GOLDEN / "tiny_flmr"), "device": "cpu"})
    told = Recorder()
    retriever.begin_run(RunContext(progress=told))
    many = Passages(Dataset.from_list(passage_rows([f"a river {n}" for n in range(300)])), None, "")
    retriever.index(many, workdir=tmp_path)
    assert [call for call in told.calls if call[::2] != ("advance", 0)] == [
        (call, "encode document", n)
        for call, n in (("start", 300), *[("advance", n) for n in (128, 128, 44)], ("done", 0))
    ]
    assert retriever.run_stats().seconds["encode document"] > 0


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"checkpoint": "no/such/folder/here"}, MissingError, "no such folder"),
        ({"checkpoint": str(GOLDEN / "tiny_flmr"), "device": "cuda:99"}, UsageError, "cuda:99"),
        (
            {"checkpoint": str(GOLDEN / "tiny_flmr"), "max_length": "99"},
            UsageError,
            "max_length=99",
        ),
        ({"checkpoint": str(GOLDEN / "tiny_flmr"), "dtype": "int8"}, UsageError, "int8"),
        ({"checkpoint": str(GOLDEN / "tiny_flmr"), "revision": "main"}, UsageError, "revision"),
    ],
)
def test_what_cannot_be_is_named(
    settings: dict[str, str],
    kind: type[M2KRError],
    message: str,
    passages: Passages,
    tmp_path: Path,
) -> None:
    with pytest.raises(kind, match=message):
        create("flmr", settings).index(passages, workdir=tmp_path)


def test_a_damaged_image_stops_the_search(made: Made, passages: Passages, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    rows = [query_row("q", "What is it?", "broken.png", ["p001"])]
    damaged = Queries(Dataset.from_list(rows), ImageStore(tmp_path), "fp1:damaged")
    with pytest.raises(InputError, match="broken"):
        run_of("preflmr", made, passages, damaged)


@pytest.fixture(scope="module")
def some_of_mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("some_of_mini")
    build(registry.builder("mini"), root, limit=60)
    return root


@EVERY
def test_evaluates_mini_from_end_to_end(name: str, some_of_mini: Path) -> None:
    retriever = create(name, {"checkpoint": str(CHECKPOINTS[name]), "device": "cpu"})
    (result,) = m2kr.evaluate("mini", retriever, data=some_of_mini, k=10)
    assert result.retriever["name"] == name
    assert result.retriever["settings"]["weights_sha256"]
    assert result.seconds["encode"] > 0


def test_the_encoder_and_the_retriever_agree(
    made: Made, passages: Passages, tmp_path: Path
) -> None:
    made("preflmr", passages, checkpoint=str(CHECKPOINTS["preflmr"]), device="cpu")
    store = TokenStore.open(next(tmp_path.rglob("documents/store.json")).parent)
    model = PreFLMR.from_pretrained(CHECKPOINTS["preflmr"])
    texts = [row["passage_content"] for row in passages.rows(range(len(passages)))]
    encoded = np.concatenate(Encoder(model, output="float16").passages(texts))
    assert np.array_equal(store.read(0, len(store)), encoded)
    assert store.ids().to_pylist() == passages.ids.to_pylist()
    weights = file_sha256(CHECKPOINTS["preflmr"] / "model.safetensors")
    assert store.meta["checkpoint"] == weights
    assert store.meta["pool"] == passages.fingerprint
    assert store.meta["settings"]["max_length"] > 0


def test_the_cache_knows_a_checkpoint_by_its_bytes_and_a_side_by_its_own_settings(
    passages: Passages, queries: Queries, tmp_path: Path
) -> None:
    shutil.copytree(CHECKPOINTS["preflmr"], tmp_path / "moved")

    def keys(checkpoint: Path = CHECKPOINTS["preflmr"], **settings: object) -> list[object]:
        one = create("preflmr", {"checkpoint": str(checkpoint), "device": "cpu", **settings})
        assert isinstance(one, EncoderRetriever)
        return [key_of(one, passages, "document"), key_of(one, queries, "query")]

    document, query = keys()
    assert document is not None
    assert query is not None
    assert keys(tmp_path / "moved") == [document, query]
    without = keys(instructions=False)
    assert without[0] == document
    assert without[1] != query
    shorter = keys(max_length=8)
    assert shorter[0] != document
    assert shorter[1] == query
    half = keys(dtype="bfloat16")
    assert half[0] != document
    assert half[1] != query
    other = keys(CHECKPOINTS["flmr"])
    assert other[0] != document
    assert other[1] != query
