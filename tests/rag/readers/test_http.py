"""The reader over HTTP: what is sent, what comes back, and that the key is in nothing of it."""

import base64
import hashlib
import io
import json
import logging
import pickle
import re
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from servers.chat_server import ChatServer, last_text
from servers.faulty_server import Fault

from m2kr.errors import InputError, M2KRError, UpstreamError, UsageError
from m2kr.rag.api_key import ApiKey
from m2kr.rag.reader import Answer, Reader, ReadRequest, RetrievedPassage
from m2kr.rag.readers.http import HttpReader

PASSAGES = (
    RetrievedPassage("p1", "Badgers dig setts.", 2.0),
    RetrievedPassage("p2", "Foxes.", 1.0),
)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatServer]:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with ChatServer(lambda ask: f"answer to {len(last_text(ask))}") as started:
        yield started


def reader(server: ChatServer, **settings: str) -> HttpReader:
    given = {"model": "tiny", "base_url": server.base, "backoff": "0.01", "timeout": "5"}
    return HttpReader.from_settings(given | settings)


def picture(size: tuple[int, int] = (40, 30), mode: str = "RGB") -> Image.Image:
    return Image.linear_gradient("L").resize(size).convert(mode)


def sent_image(ask: Any) -> bytes:
    [part] = [p for p in ask["messages"][-1]["content"] if p["type"] == "image_url"]
    return base64.b64decode(part["image_url"]["url"].partition("base64,")[2])


def test_it_is_a_reader_and_sends_question_passages_and_image(server: ChatServer) -> None:
    reading = reader(server)
    assert isinstance(reading, Reader)
    said = reading.answer(picture(), "What is it?", PASSAGES)
    text = last_text(server.asks[0])
    assert text.index("Badgers dig setts.") < text.index("Foxes.") < text.index("What is it?")
    data = sent_image(server.asks[0])
    assert Image.open(io.BytesIO(data)).size == (40, 30)
    assert said.detail["image_sha256"] == hashlib.sha256(data).hexdigest()
    assert (said.input_tokens, said.output_tokens, said.dollars) == (100, 3, None)
    assert said.detail["model"] == "tiny-1"


def test_without_passages_or_image_nothing_of_them_is_sent(server: ChatServer) -> None:
    reader(server).answer(None, "What is it?", ())
    assert isinstance(server.asks[0]["messages"][-1]["content"], str)
    assert "assage" not in last_text(server.asks[0])
    blind = reader(server, images="false")
    assert not blind.sees_images
    blind.answer(picture(), "What is it?", ())
    assert isinstance(server.asks[1]["messages"][-1]["content"], str)


def test_an_image_is_sent_alike_each_time_small_enough_and_without_its_metadata(
    server: ChatServer, tmp_path: Path
) -> None:
    file = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x010E] = "private words"
    picture((3000, 1000)).save(file, exif=exif, comment=b"private words")
    for image in (Image.open(file), Image.open(file).copy()):
        reader(server, image_side="300").answer(image, "?", ())
    first, second = map(sent_image, server.asks)
    assert first == second
    assert Image.open(io.BytesIO(first)).size == (300, 100)
    assert b"private" not in first


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "I;16", "1"])
def test_images_of_any_mode_are_sent(server: ChatServer, mode: str) -> None:
    image = picture(mode="L").convert("I").convert(mode) if mode == "I;16" else picture(mode=mode)
    reader(server, image_format="png").answer(image, "?", ())
    assert Image.open(io.BytesIO(sent_image(server.asks[0]))).mode == "RGB"


def test_an_image_that_is_too_large_names_the_setting(server: ChatServer) -> None:
    noise = Image.effect_noise((400, 400), 200)
    with pytest.raises(
        InputError, match=r"question q7: the image has [\d,]+ bytes(.|\n)*image_side=512"
    ):
        list(reader(server, image_bytes="2000").answers([ReadRequest("q7", "?", noise)]))
    assert server.asks == []


def test_answers_come_as_they_arrive_each_to_its_question() -> None:
    with ChatServer(last_text, delay=0.01) as server:
        reading = reader(server)
        requests = [ReadRequest(f"q{n}", f"question {n}", None) for n in range(12)]
        answers = dict(reading.answers(requests))
        assert all(f"question {number}\n" in answers[number].text for number in range(12))
        assert len(answers) == 12
        assert reading.batch >= 4


def test_an_error_names_its_question_and_comes_after_the_answers(server: ChatServer) -> None:
    server.fail(server.PATH, Fault(), times=2)
    server.fail(server.PATH, Fault(status=400, body=b'{"error": "context length exceeded"}'))
    requests = [ReadRequest(f"q{n}", "?", None) for n in range(9)]
    answers: list[tuple[int, Answer]] = []
    with pytest.raises(
        UpstreamError, match=r"question q2, 127.0.0.1:\d+/v1: HTTP 400: context length"
    ):
        answers.extend(reader(server, concurrency="1").answers(requests))
    assert [number for number, _ in answers] == [0, 1]


def test_a_refusal_is_an_empty_answer_that_says_so() -> None:
    said = {"message": {"content": None, "refusal": "I won't."}, "finish_reason": "stop"}
    with ChatServer(lambda _: said) as server:
        answer = reader(server).answer(None, "?", ())
    assert answer.text == ""
    assert answer.detail["missing"] == "refused"
    assert answer.detail["refusal"] == "I won't."


def test_tokens_that_all_go_into_reasoning_are_said_soon() -> None:
    said = {"message": {"content": "", "reasoning_content": "hm"}, "finish_reason": "length"}
    with ChatServer(lambda _: said) as server:
        reading = reader(server, concurrency="1")
        requests = [ReadRequest(f"q{n}", "?", None) for n in range(9)]
        with pytest.raises(UpstreamError, match=r"on reasoning\n  try: +--set max_tokens=2048"):
            list(reading.answers(requests))
        assert len(server.asks) == 3


def test_log_probabilities_are_the_score() -> None:
    tokens = [{"token": "a", "logprob": -0.25}, {"token": "b", "logprob": -0.5}]
    said = {"message": {"content": "ab"}, "logprobs": {"content": tokens}}
    with ChatServer(lambda _: said) as server:
        assert reader(server).answer(None, "?", ()).score == -0.75
        assert reader(server, logprobs="no").answer(None, "?", ()).score == -0.75


def test_facts_hold_what_decides_answers(server: ChatServer, tmp_path: Path) -> None:
    facts = reader(server).facts()
    assert facts == reader(server, concurrency="2", attempts="3", token_budget="7").facts()
    assert (facts["name"], facts["model"], facts["server"]) == ("http", "tiny", "localhost/v1")
    prompt = tmp_path / "prompt.yaml"
    prompt.write_text("system: Be brief.\n", encoding="utf-8")
    for change in ({"model": "m"}, {"image_side": "99"}, {"seed": "1"}, {"prompt": str(prompt)}):
        assert reader(server, **change).facts() != facts
    json.dumps(facts)


# Ways in which a server may say a key back.
ECHOES = (
    lambda key: Fault(status=401, body=json.dumps({"error": {"message": f"bad key {key}"}}).encode()),
    lambda key: Fault(status=400, body=f"Bearer {key} {key[::-1]} is not known".encode()),
    lambda key: Fault(status=500, body=json.dumps({"detail": [{key: key}]}).encode()),
    lambda key: Fault(status=403, body=base64.b64encode(key.encode())),
    lambda key: Fault(status=404, body=f"no {key[:-2]}".encode()),
    lambda key: Fault(status=400, body=f"{key.lower()} {key.upper()} {key.encode().hex()}".encode()),
    lambda key: Fault(status=400, body=base64.b64encode(f"Bearer {key}".encode())),
    lambda key: Fault(status=400, body=base64.urlsafe_b64encode(f"Basic {key}".encode())),
    lambda key: Fault(status=302, headers={"Location": f"http://localhost:1/{key}?k={key}"}),
    lambda key: Fault(body=f"<html>{key}</html>".encode(), headers={"Content-Type": key}),
    lambda key: Fault(body=json.dumps({"error": {"code": 400, "message": key}}).encode()),
    lambda key: Fault(
        body=json.dumps(
            {
                "model": key,
                "system_fingerprint": key,
                "choices": [
                    {"message": {"content": f"it is {key}", "refusal": key}, "finish_reason": key}
                ],
            }
        ).encode()
    ),
    lambda key: Fault(
        body=('{"choices": [{"message": {"content": "' + "".join(f"\\u{ord(c):04x}" for c in key))
        .encode() + b'"}}]}'
    ),
    lambda key: Fault(status=401, headers={"X-Key": key}, truncate=5),
    lambda key: Fault(reset=True),
)  # fmt: skip


@pytest.mark.parametrize("echo", ECHOES)
@settings(max_examples=2, deadline=None)
@given(
    key=st.text(
        st.sampled_from("abcdefghijkLMNOPQRST0123456789-_./+=%\"'\\{}$"), min_size=20, max_size=60
    ).filter(lambda text: len(set(text)) > 6),
)
def test_a_key_is_in_nothing_that_is_written_or_printed(key: str, echo: Any) -> None:
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        with pytest.MonkeyPatch.context() as patch, ChatServer() as server:
            patch.setenv("SOME_KEY", key)
            server.fail(server.PATH, echo(key), times=2)
            reading = reader(server, key_env="SOME_KEY", attempts="2")
            shown = [
                repr(reading),
                repr(reading.facts()),
                repr(vars(reading)),
                repr(vars(reading._client)),
            ]
            try:
                for _, answer in reading.answers([ReadRequest("q1", "?", None)]):
                    shown.append(repr(answer))
            except M2KRError as error:
                shown += ["".join(traceback.format_exception(error)), json.dumps(error.as_dict())]
                shown += [repr(error), repr(pickle.loads(pickle.dumps(error)))]
            shown.append(reading.spent)
            assert server.posts[0].token == key
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
    text = "\n".join([*shown, written.getvalue()])
    for form in (key, key[::-1], key[:-2], json.dumps(key)[1:-1], key.encode().hex()):
        assert form.lower() not in text.lower()
    for word in re.findall(r"[A-Za-z0-9+/_-]{20,}", text):  # base64, from whatever byte on
        for start in range(4):
            part = word[start:].replace("-", "+").replace("_", "/")
            decoded = base64.b64decode(part[: len(part) // 4 * 4])
            assert key[3:-3].encode() not in decoded


def test_a_key_object_shows_its_variable_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "abcdefgh12345678")
    key = ApiKey("SOME_KEY")
    again = pickle.loads(pickle.dumps(key))
    assert b"12345678" not in pickle.dumps(key)
    assert repr(key) == repr(again) == str(key) == "ApiKey($SOME_KEY)"
    assert key.clean({"abcdefgh12345678": ["x abcdefgh12345678 y", 3, None]}) == {
        "[key]": ["x [key] y", 3, None]
    }


def test_a_placeholder_for_a_key_is_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "EMPTY")
    with ChatServer(lambda _: "EMPTY", key="EMPTY") as server:
        assert reader(server).answer(None, "?", ()).text == "EMPTY"


def test_a_key_of_netrc_is_not_sent(
    server: ChatServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password sesame\n", encoding="utf-8")
    monkeypatch.setenv("NETRC", str(netrc))
    reader(server).answer(None, "?", ())
    assert "Authorization" not in server.posts[0].headers


def test_settings_of_images_are_checked(server: ChatServer) -> None:
    for wrong in ({"image_side": "3"}, {"image_bytes": "1"}, {"image_format": "gif"}):
        with pytest.raises(UsageError):
            reader(server, **wrong)
