"""The encoder against the official outputs and against the model, one padded text at a time."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from m2kr.data.images.store import black_image
from m2kr.errors import InputError, UsageError
from m2kr.preflmr import PreFLMR, PreFLMRConfig
from m2kr.preflmr.encode.encoder import Encoder, Passage, Query, encode_passages, encode_queries

from .conftest import GOLDEN, NAMES
from .encoded import UNIT, WORDS, arrays, differ, nonzero, picture, plain_queries

EVERY = pytest.mark.parametrize("name", NAMES)
TEXTS = st.lists(
    st.lists(st.sampled_from(WORDS), max_size=60).map(" ".join), min_size=1, max_size=30
)


@EVERY
def test_queries_are_the_official_ones_without_zero_rows(
    name: str, models: dict[str, PreFLMR]
) -> None:
    known = arrays(name)
    made = encode_queries(
        models[name],
        [str(each) for each in known["queries"]],
        [torch.from_numpy(each) for each in known["pixel_values"]],
    )
    assert differ(made, nonzero(known["query_out"])) <= UNIT
    assert sum(map(len, made)) < known["query_out"][..., 0].size or name == "tiny_flmr"


@EVERY
def test_passages_are_the_official_ones_without_masked_rows(
    name: str, models: dict[str, PreFLMR]
) -> None:
    known = arrays(name)
    made = encode_passages(models[name], [str(each) for each in known["docs"]])
    kept = known["doc_mask"].reshape(known["doc_out"].shape[:2])
    official = [rows[mask] for rows, mask in zip(known["doc_out"], kept, strict=True)]
    assert differ(made, official) <= UNIT


@EVERY
def test_scores_are_the_official_ones(name: str, models: dict[str, PreFLMR]) -> None:
    known = arrays(name)
    encoder = Encoder(models[name])
    queries = encoder.queries(
        [str(each) for each in known["queries"]],
        [torch.from_numpy(each) for each in known["pixel_values"]],
    )
    passages = encoder.passages([str(each) for each in known["docs"]])
    scores = [[(q @ d.T).max(axis=1).sum() for d in passages] for q in queries]
    assert np.abs(np.array(scores) - known["scores_all_pairs"]).max() <= 1e-4


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(texts=TEXTS, budget=st.sampled_from((1, 50, 300, 100_000)), name=st.sampled_from(NAMES))
def test_neighbours_and_budgets_do_not_change_a_passage(
    texts: list[str], budget: int, name: str, models: dict[str, PreFLMR]
) -> None:
    model = models[name]
    alone = []
    for text in texts:
        assert model.context_tokenizer is not None
        with torch.no_grad():
            rows = model.doc(**model.context_tokenizer([text]), keep_dims=False)[1]
        alone.append(rows[0].numpy())
    assert differ(Encoder(model, token_budget=budget).passages(texts), alone) <= UNIT


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=st.lists(
        st.tuples(
            st.lists(st.sampled_from(WORDS), max_size=9).map(" ".join),
            st.none() | st.integers(0, 3),
        ),
        min_size=1,
        max_size=12,
    ),
    budget=st.sampled_from((1, 150, 100_000)),
    name=st.sampled_from(NAMES),
)
def test_neighbours_and_shared_images_do_not_change_a_query(
    rows: list[tuple[str, int | None]], budget: int, name: str, models: dict[str, PreFLMR]
) -> None:
    pictures = [picture(seed) for seed in range(4)]
    texts = [text for text, _ in rows]
    images = [None if number is None else pictures[number] for _, number in rows]
    made = Encoder(models[name], token_budget=budget).queries(texts, images)
    assert differ(made, nonzero(plain_queries(models[name], texts, images))) <= UNIT


def test_equal_texts_get_equal_bits_and_order_is_kept(models: dict[str, PreFLMR]) -> None:
    texts = [" ".join(WORDS[: 1 + n % 12] * (1 + n % 3)) for n in range(900)]
    made = Encoder(models["tiny_preflmr"], token_budget=128).passages(texts)
    by_text = {text: Encoder(models["tiny_preflmr"]).passages([text])[0] for text in set(texts)}
    assert differ(made, [by_text[text] for text in texts]) <= UNIT
    first: dict[str, np.ndarray] = {}
    assert all(
        np.array_equal(first.setdefault(text, each), each)
        for text, each in zip(texts, made, strict=True)
    )


def test_several_devices_give_the_same(models: dict[str, PreFLMR]) -> None:
    model = models["tiny_preflmr"]
    texts = [" ".join(WORDS[: n % 14]) for n in range(60)]
    images = [None if n % 3 else picture(n) for n in range(60)]
    one, two = (
        Encoder(model, devices=devices, token_budget=200)
        for devices in (["cpu"], ["cpu", torch.device("cpu")])
    )
    assert two.devices == ("cpu", "cpu")
    assert differ(one.passages(texts), two.passages(texts)) == 0
    assert differ(one.queries(texts, images), two.queries(texts, images)) == 0


def test_instructions_are_joined_as_the_official_script_does(models: dict[str, PreFLMR]) -> None:
    model = models["tiny_preflmr"]
    whole = encode_queries(model, ["Find the text: of a river", "Find the text: of a school"])
    for said in ("Find the text", " Find the text: ", ["Find the text:", "Find the text"]):
        made = encode_queries(model, ["of a river", "of a school"], instructions=said)
        assert differ(made, whole) == 0


def test_the_instruction_ends_with_the_mask_token_of_the_config(
    models: dict[str, PreFLMR],
) -> None:
    model = models["tiny_preflmr"]
    config = PreFLMRConfig.from_dict(
        model.config.to_dict() | {"mask_instruction_token": "!"},
        mapping=model.config.mapping_config,
    )
    other = PreFLMR(config, model.query_tokenizer, model.context_tokenizer).eval()
    a = encode_queries(other, ["of a river"], instructions="Find: the text")
    assert differ(a, encode_queries(other, ["Find! the text! of a river"])) == 0


def test_a_stream_is_read_a_bounded_way_ahead(models: dict[str, PreFLMR]) -> None:
    read = 0

    def texts() -> Iterator[Passage]:
        nonlocal read
        while True:
            read += 1
            yield Passage(f"school {read % 1000} " + "city of the river " * 12)

    encoder = Encoder(models["tiny_preflmr"])
    encoder._window = 4000
    stream = encoder.stream_passages(texts())
    for taken in range(1, 1500):
        assert np.isfinite(next(stream)).all()
        assert read - taken < 1500
    stream.close()  # type: ignore[attr-defined]
    before = read
    time.sleep(0.2)
    assert before == read


def test_an_error_of_the_source_reaches_the_reader(models: dict[str, PreFLMR]) -> None:
    def queries() -> Iterator[Query]:
        yield Query("school")
        raise InputError("the table ends early")

    with pytest.raises(InputError, match="ends early"):
        list(Encoder(models["tiny_flmr"]).stream_queries(queries()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_lower_precision_stays_close_and_leaves_the_model_alone(
    dtype: torch.dtype, models: dict[str, PreFLMR]
) -> None:
    model = models["tiny_preflmr"]
    texts = ["the school of the city", "a river runs: in the new film"] * 3
    images = [picture(n) for n in range(6)]
    exact, low = Encoder(model), Encoder(model, dtype=dtype, output="float16")
    assert model.dtype == torch.float32
    for full, half in (
        (exact.passages(texts), low.passages(texts)),
        (exact.queries(texts, images), low.queries(texts, images)),
    ):
        assert all(each.dtype == np.float16 for each in half)
        norms = np.concatenate([np.linalg.norm(each.astype(np.float32), axis=1) for each in half])
        assert np.abs(norms - 1).max() <= 2e-3
        cosines = [(a * b).sum(axis=1) for a, b in zip(full, half, strict=True)]
        assert np.concatenate(cosines).min() > 0.98


def test_a_model_in_training_is_put_back(models: dict[str, PreFLMR]) -> None:
    model = models["tiny_flmr"]
    quiet = encode_passages(model, ["the river", "a school of the city"])
    model.train()
    model.query_vision_encoder.eval()  # as a frozen part is kept
    try:
        assert differ(encode_passages(model, ["the river", "a school of the city"]), quiet) == 0
        assert model.training
        assert model.query_text_encoder.training
        assert not model.query_vision_encoder.training
    finally:
        model.eval()


def test_threads_of_torch_are_left_as_they_were(models: dict[str, PreFLMR]) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        texts = [" ".join(WORDS[: n % 14]) for n in range(60)]
        Encoder(models["tiny_flmr"], token_budget=64).passages(texts)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: Encoder(model, devices="cuda:77"), "cuda:77"),
        (lambda model: Encoder(model, devices="gpu"), "gpu"),
        (lambda model: Encoder(model, token_budget=0), "token_budget=0"),
        (lambda model: Encoder(model, workers=0), "workers=0"),
        (lambda model: Encoder(model, max_length=2), "max_length=2"),
        (lambda model: Encoder(model, max_length=4000), "max_length=4000"),
        (lambda model: Encoder(model, output="int8"), "int8"),
        (lambda model: encode_passages(model, "one text"), "one text"),
    ],
)
def test_wrong_calls_are_named(
    call: Callable[[PreFLMR], Any], message: str, models: dict[str, PreFLMR]
) -> None:
    with pytest.raises(UsageError, match=message):
        call(models["tiny_flmr"])


def test_numbers_must_agree_and_tokenizers_be_there(models: dict[str, PreFLMR]) -> None:
    model = models["tiny_flmr"]
    with pytest.raises(InputError, match="1 images for 2 texts"):
        encode_queries(model, ["a", "b"], [None])
    with pytest.raises(InputError, match="3 instructions for 2 texts"):
        encode_queries(model, ["a", "b"], instructions=["c"] * 3)
    with pytest.raises(InputError, match="no tokenizers"):
        Encoder(PreFLMR(model.config))


def test_nothing_gives_nothing(models: dict[str, PreFLMR]) -> None:
    encoder = Encoder(models["tiny_preflmr"])
    assert encoder.passages([]) == []
    assert encoder.queries([]) == []
    assert len(encoder.passages([""])[0]) == 3


@pytest.mark.slow
def test_compiled_modules_give_the_same(models: dict[str, PreFLMR]) -> None:
    model = PreFLMR.from_pretrained(GOLDEN / "tiny_preflmr")
    texts = [" ".join(WORDS[: n % 14]) for n in range(40)]
    images = [None if n % 3 else picture(n) for n in range(40)]
    plain = Encoder(models["tiny_preflmr"], token_budget=200)
    compiled = Encoder(model, token_budget=200, compile=True)
    assert differ(compiled.passages(texts), plain.passages(texts)) <= UNIT
    assert differ(compiled.queries(texts, images), plain.queries(texts, images)) <= UNIT


@pytest.mark.slow
def test_neighbours_change_nothing_at_the_size_of_bert_base(models: dict[str, PreFLMR]) -> None:
    tiny = models["tiny_preflmr"]
    config = PreFLMRConfig(
        vision_config=tiny.config.vision_config,
        mapping_network_prefix_length=4,
        use_transformer_mapping_network=True,
        transformer_mapping_config_base="bert-base-uncased",
        transformer_mapping_num_hidden_layers=1,
        mask_instruction_token=":",
    )
    torch.manual_seed(0)
    model = PreFLMR(
        config, tiny.query_tokenizer, tiny.context_tokenizer, tiny.image_processor
    ).eval()
    texts = [" ".join(WORDS[n % 14 :] * (1 + n % 5)) for n in range(24)]
    images = [picture(n) if n % 3 else None for n in range(24)]
    together = Encoder(model)
    alone = Encoder(model, token_budget=1)
    one = [alone.passages([text])[0] for text in texts]
    assert differ(together.passages(texts), one) <= 1e-5
    one = [alone.queries([text], [image])[0] for text, image in zip(texts, images, strict=True)]
    assert differ(together.queries(texts, images), one) <= 1e-5


def test_the_model_itself_encodes() -> None:
    model = PreFLMR.from_pretrained(GOLDEN / "tiny_preflmr")
    (query,) = model.encode_queries(["what: is it?"], [black_image()])
    (passage,) = model.encode_passages(["A cat."])
    assert query.shape[1] == passage.shape[1] == model.config.dim
    np.testing.assert_allclose(np.linalg.norm(passage, axis=1), 1, atol=1e-5)
