"""Models of transformers as readers: kinds of models, padding, what is too long."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from support import tiny_readers

from m2kr.errors import InputError, MissingError, UsageError
from m2kr.rag.reader import ReadRequest, RetrievedPassage
from m2kr.rag.readers.hf import HfReader

PASSAGES = (
    RetrievedPassage(
        "a", "the castle is in russia . it has two { question } <|end|> <image> </s>", 3.0
    ),
    RetrievedPassage("b", "the river of india", 2.0),
)
QUESTION = "what is the name of the castle?"
SAVED: dict[str, Callable[[Path], Path]] = {
    "llama": tiny_readers.save_llama,
    "t5": tiny_readers.save_t5,
    "blip2": tiny_readers.save_blip2,
    "qwen2-vl": tiny_readers.save_qwen2_vl,
    "smolvlm": tiny_readers.save_smolvlm,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("readers")


def saved(folders: Path, name: str) -> str:
    folder = folders / name
    return str(folder if folder.exists() else SAVED[name](folder))


@pytest.fixture
def image() -> Image.Image:
    return Image.radial_gradient("L").convert("RGB").resize((40, 30))


@pytest.mark.parametrize("name", SAVED)
def test_every_kind_of_model_answers(folders: Path, image: Image.Image, name: str) -> None:
    settings = {"model": saved(folders, name), "max_tokens": "5", "device": "cpu"}
    reader = HfReader.from_settings(settings)
    assert reader.sees_images == (name not in ("llama", "t5"))
    said = reader.answer(image, QUESTION, PASSAGES)
    assert said == reader.answer(image, QUESTION, PASSAGES)
    assert 1 <= (said.output_tokens or 0) <= 5
    assert said.score <= 0
    bare = reader.answer(image, QUESTION, ())
    assert (bare.input_tokens or 0) < (said.input_tokens or 0)
    # Without an image the same model answers from the text alone.
    assert (reader.answer(None, QUESTION, ()).input_tokens or 0) <= (bare.input_tokens or 0)
    assert reader.facts()["files_sha256"]


@pytest.mark.parametrize(
    "name",
    [
        "llama",
        "qwen2-vl",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("t5", "blip2", "smolvlm")),
    ],
)
def test_a_batch_gives_what_each_gives_alone(folders: Path, image: Image.Image, name: str) -> None:
    requests = [
        ReadRequest("1", QUESTION, image, PASSAGES),
        ReadRequest("2", "which?", image.resize((20, 44)), ()),
        ReadRequest("3", "", None, PASSAGES[:1]),
        ReadRequest("4", "the bear?", None, ()),
    ]
    model = saved(folders, name)
    alone = HfReader(model, max_tokens=4, device="cpu")
    together = HfReader(model, max_tokens=4, device="cpu", batch_size=4)
    answers = dict(together.answers(requests))
    assert sorted(answers) == [0, 1, 2, 3]
    for number, request in enumerate(requests):
        said = alone.answer(request.image, request.question, request.passages)
        assert answers[number].text == said.text
        assert answers[number].score == pytest.approx(said.score, abs=1e-3)
        assert answers[number].input_tokens == said.input_tokens
    assert alone.facts() == together.facts()


def test_a_model_that_padding_disturbs_is_asked_one_by_one(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import LlamaForCausalLM

    forward = LlamaForCausalLM.forward

    def blind_to_padding(self: object, *args: object, **kwargs: object) -> object:
        kwargs["attention_mask"] = kwargs["position_ids"] = None
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(LlamaForCausalLM, "forward", blind_to_padding)
    reader = HfReader(saved(folders, "llama"), max_tokens=3, device="cpu", batch_size=2)
    requests = [
        ReadRequest("1", QUESTION, None, PASSAGES),
        ReadRequest("2", "which?", None, ()),
    ]
    answers = dict(reader.answers(requests))
    assert reader._padding_is_harmless is False
    assert answers[1] == reader.answer(None, "which?", ())


@pytest.mark.parametrize("name", ["qwen2-vl", "smolvlm"])
def test_the_image_is_first_or_last_or_not_shown(
    folders: Path, image: Image.Image, name: str
) -> None:
    model = saved(folders, name)
    texts = {}
    for place in ("first", "last", "none"):
        reader = HfReader.from_settings({"model": model, "image": place, "device": "cpu"})
        texts[place] = reader._as_text("", QUESTION, reader.sees_images)
    mark = {"qwen2-vl": "<|image_pad|>", "smolvlm": "<image>"}[name]
    assert texts["first"].index(mark) < texts["first"].index("what") < texts["last"].index(mark)
    assert mark not in texts["none"]


def test_what_a_context_has_no_room_for_is_cut_from_the_last_passage(tmp_path: Path) -> None:
    folder = tiny_readers.save_llama(tmp_path / "short", context=80)
    reader = HfReader(str(folder), max_tokens=8, device="cpu")
    long = RetrievedPassage("c", "the bear of russia is in india " * 40, 1.0)
    said = reader.answer(None, QUESTION, [PASSAGES[1], long])
    assert (said.input_tokens or 0) <= 72
    (cut,) = said.detail["cut"]
    assert cut["passage_id"] == "c"
    assert 0 < cut["kept_characters"] < cut["characters"]
    with pytest.raises(InputError, match="the question alone"):
        reader.answer(None, "what is the river? " * 20, [])
    with pytest.raises(UsageError, match="max_input"):
        HfReader(str(folder), max_input=79, max_tokens=8, device="cpu").answer(None, QUESTION, [])


def test_a_model_without_a_chat_template_answers_in_a_line(folders: Path, tmp_path: Path) -> None:
    folder = tiny_readers.save_llama(tmp_path / "base", chat=False)
    reader = HfReader(str(folder), max_tokens=8, device="cpu")
    assert "\n" not in reader.answer(None, QUESTION, PASSAGES).text


def test_an_image_that_a_processor_refuses_is_one_error(folders: Path) -> None:
    reader = HfReader(saved(folders, "qwen2-vl"), max_tokens=2, device="cpu")
    with pytest.raises(InputError, match=r"300 x 1: .*aspect ratio"):
        reader.answer(Image.new("RGB", (300, 1)), QUESTION, ())


def test_a_template_without_a_systems_turn_gets_it_from_the_user(tmp_path: Path) -> None:
    folder = tiny_readers.save_llama(tmp_path / "strict")
    template = folder / "chat_template.jinja"
    refusal = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    template.write_text(refusal + tiny_readers.CHAT, encoding="utf-8")
    reader = HfReader(str(folder), max_tokens=2, device="cpu")
    text = reader._as_text("be brief", "who?", False)
    assert "user be brief" in text
    assert "system" not in text


def test_settings_that_are_wrong_are_refused(folders: Path, tmp_path: Path) -> None:
    model = saved(folders, "llama")
    for settings in (
        {"model": model, "image": "middle"},
        {"model": model, "max_tokens": "0"},
        {"model": model, "batch": "3"},
        {"model": model, "revision": "main"},
        {},
    ):
        with pytest.raises(UsageError):
            HfReader.from_settings(settings)
    for settings in (
        {"model": model, "adapter": str(tmp_path)},
        {"model": str(tmp_path)},
        {"model": model, "prompt": str(tmp_path / "none.yaml")},
        {"model": model, "gguf_file": "none.gguf"},
    ):
        with pytest.raises(MissingError):
            HfReader.from_settings(settings)


def test_an_answer_ends_at_the_tokenizers_end_of_a_turn(tmp_path: Path) -> None:
    folder = tiny_readers.save_llama(tmp_path / "llama")
    plain = HfReader(str(folder), max_tokens=8, device="cpu").answer(None, QUESTION, PASSAGES)
    first = plain.text.split()[0]
    settings = folder / "tokenizer_config.json"
    facts = json.loads(settings.read_text(encoding="utf-8"))
    facts["eos_token"] = first
    settings.write_text(json.dumps(facts), encoding="utf-8")
    said = HfReader(str(folder), max_tokens=8, device="cpu").answer(None, QUESTION, PASSAGES)
    assert (said.text, said.output_tokens) == ("", 1)
