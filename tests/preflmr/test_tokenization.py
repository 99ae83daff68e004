"""Tokenizers: layout, lengths, threads, round trips and malformed files. Ids: see test_golden."""

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from m2kr.errors import InputError, MissingError, UsageError
from m2kr.preflmr import ContextTokenizer, QueryTokenizer

GOLDEN = Path(__file__).parents[1] / "golden"
QUERY = QueryTokenizer.from_pretrained(GOLDEN / "tiny_preflmr")
CONTEXT = ContextTokenizer.from_pretrained(GOLDEN / "tiny_preflmr")
CLS, SEP, PAD, MASK, Q_MARK, D_MARK = 101, 102, 0, 103, 1, 2

texts = st.lists(st.text(max_size=60), min_size=1, max_size=4)


@given(texts, st.integers(3, 40))
def test_a_query_is_laid_out_as_the_model_wants(batch: list[str], length: int) -> None:
    out = QUERY(batch, max_length=length)
    ids, mask = out["input_ids"], out["attention_mask"]
    assert ids.shape == mask.shape == (len(batch), length)
    assert ids.dtype == mask.dtype == torch.int64
    assert (ids[:, 0] == CLS).all()
    assert (ids[:, 1] == Q_MARK).all()
    assert not (ids == PAD).any()
    # Attention covers a prefix that ends in [SEP]; only fillers follow.
    for row, attended in zip(ids.tolist(), mask.sum(1).tolist(), strict=True):
        assert row[attended - 1] == SEP
        assert row[attended:] == [MASK] * (length - attended)
    assert (mask.diff(dim=1) <= 0).all()


@given(texts)
def test_padding_to_the_longest_only_drops_filling(batch: list[str]) -> None:
    full, short = CONTEXT(batch), CONTEXT(batch, padding="longest")
    width = short["input_ids"].shape[1]
    assert width == int(full["attention_mask"].sum(1).max())
    for key in ("input_ids", "attention_mask"):
        assert torch.equal(full[key][:, :width], short[key])
    assert not full["attention_mask"][:, width:].any()
    assert (full["input_ids"][:, 1] == D_MARK).all()


@given(texts)
def test_each_text_is_encoded_for_itself(batch: list[str]) -> None:
    together = CONTEXT(batch)["input_ids"]
    alone = torch.cat([CONTEXT([text])["input_ids"] for text in batch])
    assert torch.equal(together, alone)


def test_long_texts_are_cut_before_the_separator() -> None:
    ids = CONTEXT(["the " * 500])["input_ids"][0].tolist()
    the = CONTEXT.encode("the", add_special_tokens=False)
    assert ids == [CLS, D_MARK, *(the * (CONTEXT.maxlen - 3)), SEP]


def test_documents_never_exceed_their_own_length() -> None:
    assert CONTEXT(["a"], max_length=9999)["input_ids"].shape == (1, CONTEXT.maxlen)
    assert CONTEXT(["a"], max_length=7)["input_ids"].shape == (1, 7)


def test_fillers_can_be_attended_to() -> None:
    attending = QueryTokenizer.from_pretrained(GOLDEN / "tiny_flmr", attend_to_mask_tokens=True)
    assert attending(["what"])["attention_mask"].all()
    assert not QUERY(["what"])["attention_mask"].all()


def test_a_literal_pad_in_a_query_becomes_a_mask() -> None:
    ids = QUERY(["[PAD] x"])["input_ids"][0].tolist()
    assert ids[2] == MASK


def test_one_text_is_a_batch_of_one() -> None:
    assert torch.equal(QUERY("who")["input_ids"], QUERY(["who"])["input_ids"])


@pytest.mark.parametrize(
    "dropped", ["\U00012ef1", "\ue4cf", "\ud7ff", "\x00", "\ufffd", "\u200b", "\U00011a35"]
)
def test_what_is_no_character_is_dropped(dropped: str) -> None:
    # Unassigned, private, control, format and accent characters, as the official tokenizer drops them.
    assert CONTEXT.encode(f"qu{dropped}estion {dropped} x") == CONTEXT.encode("question  x")
    assert MASK not in CONTEXT.encode(f"[MA{dropped}SK]")


@pytest.mark.parametrize("mark", ["—", "\u2e43", "\U00011661"])
def test_punctuation_stands_alone(mark: str) -> None:
    assert CONTEXT.encode(f"one{mark}two") == CONTEXT.encode(f"one {mark} two")


def test_encode_is_plain() -> None:
    assert QUERY.encode(":", add_special_tokens=False) == [1024]
    assert QUERY.encode(":") == [CLS, 1024, SEP]


def test_one_tokenizer_serves_many_threads() -> None:
    batches = [[f"question {n} about {'a b c ' * (n % 7)}"] for n in range(64)]
    wanted = [QUERY(batch, max_length=8 + n % 9)["input_ids"] for n, batch in enumerate(batches)]
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(
            lambda each: QUERY(each[1], max_length=8 + each[0] % 9), enumerate(batches)
        )
        for want, have in zip(wanted, found, strict=True):
            assert torch.equal(want, have["input_ids"])


@settings(max_examples=20)
@given(texts)
def test_saved_tokenizers_cut_alike(
    tmp_path_factory: pytest.TempPathFactory, batch: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("saved")
    for each in (QUERY, CONTEXT):
        each.save_pretrained(folder / each.FOLDER)
        again = type(each).from_pretrained(folder)
        assert again.maxlen == each.maxlen
        assert torch.equal(again(batch)["input_ids"], each(batch)["input_ids"])


@pytest.fixture
def extended(tmp_path: Path) -> Path:
    """FLMR's kind of tokenizer: special tokens behind the vocabulary."""
    folder = tmp_path / "query_tokenizer"
    shutil.copytree(GOLDEN / "tiny_flmr" / "query_tokenizer", folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    for n, token in enumerate(("<BOV>", "<SOV>", "<EOV>")):
        config["added_tokens_decoder"][str(2500 + n)] = {
            "content": token,
            **dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False),
            "special": True,
        }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return tmp_path


def test_added_tokens_have_their_own_ids(extended: Path) -> None:
    tokenizer = QueryTokenizer.from_pretrained(extended)
    assert tokenizer.vocab_size == 2503
    ids = tokenizer.encode("<BOV> the<SOV>of <EOV>", add_special_tokens=False)
    the, of = tokenizer.encode("the of", add_special_tokens=False)
    assert ids == [2500, the, 2501, of, 2502]


def test_added_tokens_are_saved(extended: Path, tmp_path: Path) -> None:
    tokenizer = QueryTokenizer.from_pretrained(extended)
    tokenizer.save_pretrained(tmp_path / "again")
    again = QueryTokenizer.from_pretrained(tmp_path / "again")
    assert again.encode("<BOV> the") == tokenizer.encode("<BOV> the")
    added = json.loads((tmp_path / "again" / "added_tokens.json").read_text())
    assert added == {"<BOV>": 2500, "<SOV>": 2501, "<EOV>": 2502}
    assert (tmp_path / "again" / "vocab.txt").read_bytes() == (
        extended / "query_tokenizer" / "vocab.txt"
    ).read_bytes()


def test_a_tokenizer_json_will_do(tmp_path: Path) -> None:
    tokens = (GOLDEN / "tiny_flmr/query_tokenizer/vocab.txt").read_text().splitlines()
    model = {"type": "WordPiece", "vocab": {token: n for n, token in enumerate(tokens)}}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": model}))
    made = QueryTokenizer.from_pretrained(tmp_path)
    with np.load(GOLDEN / "tiny_flmr_tokens.npz") as arrays:
        ids = made([str(each) for each in arrays["strings"]], max_length=32)["input_ids"]
        assert np.array_equal(ids.numpy(), arrays["query_ids_len32"])


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (lambda f: (f / "vocab.txt").unlink(), "vocabulary is missing"),
        (lambda f: (f / "vocab.txt").write_text("a\na\n"), "repeats a token"),
        (
            lambda f: [
                (f / "vocab.txt").write_text("[PAD]\n[UNK]\n"),
                (f / "tokenizer_config.json").unlink(),
            ],
            r"lacks \[CLS\]",
        ),
        (lambda f: (f / "vocab.txt").write_bytes(b"\xff\xfe"), "no UTF-8"),
        (lambda f: (f / "tokenizer_config.json").write_text("[]"), "no JSON object"),
        (lambda f: (f / "tokenizer_config.json").write_text("{"), "no JSON"),
        (
            lambda f: (f / "tokenizer_config.json").write_text('{"query_maxlen": 1e9}'),
            "query_maxlen",
        ),
        (lambda f: (f / "tokenizer_config.json").write_text('{"query_maxlen": 2}'), "query_maxlen"),
        (lambda f: (f / "tokenizer_config.json").write_text('{"do_lower_case": "no"}'), "do_lower"),
        (
            lambda f: (f / "tokenizer_config.json").write_text(
                '{"added_tokens_decoder": {"x": 1}}'
            ),
            "added_tokens_decoder",
        ),
        (
            lambda f: (f / "tokenizer_config.json").write_text(
                '{"added_tokens_decoder": {"9999": {"content": "<X>"}}}'
            ),
            "its place",
        ),
    ],
)
def test_malformed_files_are_named(
    tmp_path: Path, break_it: Callable[[Path], object], says: str
) -> None:
    folder = tmp_path / "query_tokenizer"
    shutil.copytree(GOLDEN / "tiny_flmr" / "query_tokenizer", folder)
    break_it(folder)
    with pytest.raises((InputError, MissingError), match=says) as caught:
        QueryTokenizer.from_pretrained(tmp_path)
    assert str(folder) in str(caught.value)


def test_other_forms_are_refused() -> None:
    with pytest.raises(UsageError):
        QUERY(["a"], padding="longest")
    with pytest.raises(UsageError):
        CONTEXT(["a"], truncation=False)
    with pytest.raises(UsageError, match="max_length"):
        QUERY(["a"], max_length=2)


def test_filling_to_the_longest_is_the_filled_text_cut(golden: Path) -> None:
    tokenizer = ContextTokenizer.from_pretrained(golden / "tiny_preflmr")
    texts = ["", "the river", "of a city was the first in the new film " * 9, "school"]
    whole, cut = tokenizer(texts), tokenizer(texts, padding="longest")
    for key, filled in whole.items():
        assert cut[key].dtype == filled.dtype == torch.int64
        assert torch.equal(cut[key], filled[:, : cut[key].shape[1]])
    assert cut["input_ids"].shape[1] == int(whole["attention_mask"].sum(dim=1).max())
    assert tokenizer([], padding="longest")["input_ids"].shape[0] == 0
    assert tokenizer([])["input_ids"].shape == (0, tokenizer.maxlen)
