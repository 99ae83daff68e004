"""The reader and the judge over HTTP in the pipeline: kept, resumed, compared, and no key anywhere."""

import json
from pathlib import Path

import pytest
from PIL import Image
from servers import faulty_server
from servers.chat_server import Ask, ChatServer, last_text
from servers.faulty_server import FOREVER, Fault, Request
from support.tiny_rag import COLOURS, tiny_rag_source, tiny_run

from m2kr.errors import UpstreamError
from m2kr.rag.kept_answers import AnswerStore
from m2kr.rag.pipeline import RagResults, answer_questions
from m2kr.rag.reader import Answer
from m2kr.rag.readers.http import HttpReader
from m2kr.rag.tables import AnswerTable

KEY = "planted-Key-0b5e94711"


def reply(ask: Ask) -> str:
    """As reader the colour of the first passage, as judge whether it is an accepted one."""
    text = last_text(ask)
    if text.startswith("{"):
        material = json.loads(text)
        return json.dumps({"correct": material["answer"] in material["accepted_answers"]})
    words = text.split("Question:")[0].replace(".", " ").split()
    return next((word for word in words if word in COLOURS), "unknown")


def ask(server: ChatServer, folder: Path, **more: str) -> RagResults:
    settings = {"base_url": server.base, "backoff": "0.01", "key_env": "PLANTED"}
    settings |= {f"judge.{key}": value for key, value in settings.items()} | {"judge.model": "tiny"}
    return answer_questions(
        tiny_rag_source(folder / "data"),
        "http:tiny",
        run=tiny_run(folder / "run.parquet"),
        k="1,3",
        scorers=["exact_match", "judge"],
        settings=settings | more,
        out=folder / "out",
    )


def test_a_run_is_kept_resumed_judged_and_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLANTED", KEY)
    with ChatServer(reply, key=KEY) as server:
        server.fail(server.PATH, *[Fault()] * 10, Fault(status=400, body=KEY.encode()))
        with pytest.raises(UpstreamError, match=r"HTTP 400: \[key\]"):
            ask(server, tmp_path)
        server.model = "tiny-2"
        [result] = ask(server, tmp_path)
        # Per question one request without and one each with 1 and 3 passages; the oracle's are those of
        # k = 1 for every other, which a reader that sees no scores isn't asked again.
        reads = [last_text(one) for one in server.asks if not last_text(one).startswith("{")]
        assert len(reads) == len(set(reads)) == 8 * 3 + 4
        judged = [last_text(one) for one in server.asks if last_text(one).startswith("{")]
        assert len(judged) == len(set(judged))
        count = len(server.requests)
        [again] = ask(server, tmp_path)
        assert len(server.requests) == count
        assert again.totals == result.totals
    exact, judge = (result.totals[name] for name in ("exact_match", "judge"))
    assert [row["mean"] for row in exact] == [row["mean"] for row in judge]
    assert judge[-1]["mean"] == 1.0
    text = " ".join(str(AnswerTable.of(result)).split())
    assert "judge and exact_match agree on 100.0%" in text
    assert "the answers come from 2 models" in text
    assert f"judge: {len(judged)} verdicts took {len(judged) * 100:,} tokens in" in text
    for file in [*tmp_path.rglob("*")]:
        assert not file.is_file() or KEY.encode() not in file.read_bytes(), file


def test_answers_stay_where_the_judge_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLANTED", KEY)
    with ChatServer(reply) as server, ChatServer(reply) as other:
        other.fail(other.PATH, Fault(status=403), times=FOREVER)
        with pytest.raises(UpstreamError, match="403"):
            ask(server, tmp_path, **{"judge.base_url": other.base})
        count = len(server.asks)
        [result] = ask(server, tmp_path, **{"judge.base_url": server.base})
        assert all(last_text(one).startswith("{") for one in server.asks[count:])
    assert result.counts["asked"] == 8


def test_an_interrupt_just_after_a_transaction_began_spoils_nothing(tmp_path: Path) -> None:
    with AnswerStore(tmp_path / "answers.sqlite") as store:
        store.claim([b"a"])
        store._db.execute("BEGIN IMMEDIATE")
        store.give_up([b"a"])
        store.put(b"a", Answer("x"), 1.0)
        assert store.get([b"a"])[b"a"].answer.text == "x"


class Picky(ChatServer):
    """Refuses requests whose body has some bytes."""

    refused = b"zebra"

    def answer(self, request: Request, fault: Fault) -> faulty_server.Answer:
        if self.refused in request.body:
            said = b'{"error": {"message": "maximum context length is 8 tokens"}}'
            return faulty_server.Answer(400, {"Content-Type": "application/json"}, said)
        return super().answer(request, fault)


@pytest.mark.parametrize("image", [False, True])
def test_a_question_that_is_refused_is_an_error_or_an_empty_answer(
    monkeypatch: pytest.MonkeyPatch, *, image: bool
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    picture = Image.new("RGB", (40, 30)) if image else None
    with Picky() as server:
        settings = {"model": "tiny", "base_url": server.base, "price_in": "1", "price_out": "1"}
        strict = HttpReader.from_settings(settings)
        with pytest.raises(UpstreamError, match="refused=empty counts"):
            strict.answer(picture, "a zebra?", ())
        lenient = HttpReader.from_settings(settings | {"refused": "empty"})
        assert lenient.facts() == strict.facts()
        for _ in range(2):
            said = lenient.answer(picture, "a zebra?", ())
            assert (said.text, said.input_tokens, said.dollars) == ("", 0, 0)
            assert said.detail["missing"] == "refused"
            assert "maximum context length" in said.detail["refusal"]
        assert [last_text(one)[:11] for one in server.asks] == ["What colour"] * 2
        assert lenient.answer(picture, "a horse?", ()).text == "a badger"
        server.refused = b'"model"'  # now it's not the questions
        with pytest.raises(UpstreamError, match="maximum context length"):
            lenient.answer(picture, "a horse?", ())


def test_refused_questions_are_counted_below_the_table_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLANTED", KEY)
    with Picky(reply) as server:
        server.refused = b"Passage 3"
        with pytest.raises(UpstreamError, match="question q"):
            ask(server, tmp_path)
        [result] = ask(server, tmp_path, refused="empty")
        count = len(server.requests)
        assert [again.totals for again in ask(server, tmp_path)] == [result.totals]
        assert len(server.requests) == count
    empty = {(arm["arm"], arm["k"]): arm["empty"] for arm in result.arms}
    assert empty[("retrieved", 3)] == 8
    assert empty[("none", 0)] == empty[("retrieved", 1)] == 0
    assert any("or the server, and count as empty" in note for note in result.notes)
