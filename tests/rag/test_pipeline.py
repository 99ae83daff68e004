"""``m2kr rag`` and `m2kr.answer_questions`: asked once, kept, shared, judged, never overwritten."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.commands import call
from support.tiny_rag import COLOURS, NO_ANSWER, reader_file, tiny_rag_source, tiny_run

import m2kr
from m2kr.errors import CheckError, InputError, M2KRError, MissingError, UsageError
from m2kr.progress import SILENT
from m2kr.rag.kept_answers import STORE_NAME
from m2kr.rag.reader import Answer, ReaderBase
from m2kr.rag.scorer import Verdict

N = 8


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with the tiny source. Not to be written to."""
    root = tmp_path_factory.mktemp("rag")
    tiny_rag_source(root, N)
    return root


@pytest.fixture
def split(data: Path) -> m2kr.Split:
    return m2kr.load("tinyrag", data=data)


class Copies(ReaderBase):
    """The last word of the first passage; it writes what it is asked to a list or a file."""

    name = "copies"
    sees_images = False
    version = 1

    def __init__(self, log: Path | None = None, pause: float = 0.0, **facts: object) -> None:
        self.calls: list[tuple[str, tuple[str, ...]]] = []
        self.log, self.pause, self.extra = log, pause, facts

    def facts(self):
        return {"name": self.name, "version": 1, **self.extra}

    def answer(self, image, question, passages):
        time.sleep(self.pause)
        asked = question, tuple(p.passage_id for p in passages)
        self.calls.append(asked)
        if self.log is not None:
            line = f"{asked}\n".encode()
            descriptor = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(descriptor, line)
            os.close(descriptor)
        return passages[0].text.split()[-1].strip(".") if passages else "unknown"


def ask(split, reader, out, **how):
    how = {"k": (1, 3), "progress": SILENT} | how
    return m2kr.answer_questions(split, reader, out=out, **how)


def run_of(rankings: dict[str, list[str]], **also: object) -> m2kr.Run:
    scored = {q: {p: -1.0 - i for i, p in enumerate(ids)} for q, ids in rankings.items()}
    return m2kr.Run.from_dict(scored, name="mine", **also)


def all_of(ids: list[str]) -> m2kr.Run:
    return run_of({f"q{i}": ids for i in range(N)} | {NO_ANSWER: []})


def kinds_of_calls(reader: Copies) -> list[int]:
    """How many passages each call brought."""
    return sorted(len(ids) for _, ids in reader.calls)


def test_the_command_asks_each_thing_once_and_again_gives_the_same_files(
    data: Path, tmp_path: Path
) -> None:
    run, log = tiny_run(tmp_path / "run.trec", N), tmp_path / "log"
    words = (
        "rag", "tinyrag", "--data", data, "--run", run, "--reader", f"{reader_file(tmp_path)}:Counting",
        "--set", f"log={log}", "--k", "3,1,3", "--out", tmp_path / "out",
    )  # fmt: skip
    first = json.loads(call(*words, "--json").stdout)["results"][0]
    calls = log.read_text(encoding="utf-8").splitlines()
    assert len(calls) == 4 * N  # none, @1, @3, oracle
    assert not any(call.startswith("Why?") for call in calls)  # it has no accepted answer
    assert [(arm["arm"], arm["k"], arm["questions"]) for arm in first["arms"]] == [
        ("none", 0, N), ("retrieved", 1, N), ("retrieved", 3, N), ("oracle", 3, N),
    ]  # fmt: skip
    assert [row["mean"] for row in first["totals"]["exact_match"]] == [0, 0.5, 0.5, 1]
    assert first["counts"] == {
        "questions": N + 1, "asked": N, "no_gold": 1, "no_right_passage": 0,
    }  # fmt: skip
    assert first["retriever"]["sha256"] == m2kr.Run.load(run).sha256()
    assert (first["bounds"]["1"]["value"], first["bounds"]["1"]["n"]) == (0.5, N)
    files = {p: p.read_bytes() for p in (tmp_path / "out").glob("*.[jp]*")}
    assert len(files) == 2
    shown = call(*words, "--run", "random", "--set", "random.seed=3").stdout
    assert "counting + random" in shown
    assert "next: m2kr report" in shown
    for path in set((tmp_path / "out").glob("*.[jp]*")) - {*files}:
        path.unlink()
    calls = log.read_text(encoding="utf-8").splitlines()
    shown = call(*words).stdout
    assert "oracle" in shown
    assert f"{4 * N} answers were kept" in shown
    assert files == {p: p.read_bytes() for p in (tmp_path / "out").glob("*.[jp]*")}
    assert log.read_text(encoding="utf-8").splitlines() == calls
    loaded = m2kr.RagResult.load(first["path"])
    rows = loaded.records().to_pylist()
    assert [row["arm"] for row in rows] == ["none"] * N + ["retrieved"] * 2 * N + ["oracle"] * N
    right = [row for row in rows if row["arm"] == "oracle"]
    assert [row["answer"] for row in right] == [COLOURS[i % 6] for i in range(N)]
    assert [row["passage_ids"] for row in right] == [[f"p{i}"] for i in range(N)]


def test_arms_and_ks_and_runs_share_answers_and_results_never_overwrite(
    split: m2kr.Split, tmp_path: Path
) -> None:
    out, reader = tmp_path / "out", Copies()
    short = all_of(["p0"])
    ask(split, reader, out, run=short, k=(1, 5))  # @5 is @1
    assert kinds_of_calls(reader) == [0] * N + [1] * 2 * N
    ask(split, reader, out, run=all_of([]), k=(1, 5))  # without passages it answers as without
    ask(split, reader, out, k=1)
    assert len(reader.calls) == 3 * N
    deep = all_of(["p0", "p1"])
    ask(split, reader, out, run=deep, k=(1, 2))  # p0 alone is known
    assert kinds_of_calls(reader)[3 * N :] == [2] * N
    assert len(list(out.glob("*.json"))) == len(list(out.glob("*.parquet"))) == 4
    together = ask(split, [reader, Copies(beams=2)], out, run=[short, deep], k=1)
    assert [(one.reader["facts"].get("beams"), one.retriever["name"]) for one in together] == [
        (None, "mine"), (None, "mine"), (2, "mine"), (2, "mine"),
    ]  # fmt: skip
    assert len({one.name for one in together}) == 4 - 2 * (short.top(1) == deep.top(1)) + 2
    assert together.spent.asked == 3 * N  # of the other reader alone


@pytest.mark.parametrize("change", ["text", "order", "score", "question", "setting", "version"])
def test_whatever_the_reader_is_given_or_is_decides_what_is_asked_anew(
    data: Path, tmp_path: Path, change: str
) -> None:
    out = tmp_path / "out"
    split = m2kr.load("tinyrag", data=data)
    run = all_of(["p0", "p1"])
    before = Copies()
    ask(split, before, out, run=run, k=2)
    changed = Copies(**({"temperature": 1} if change == "setting" else {}))
    if change == "text":
        split = tiny_rag_source(tmp_path / "other", N, text="A {} was {}.")
    if change == "order":
        run = all_of(["p1", "p0"])
    if change == "score":
        scored = {q: {p: s + 1 for p, s in ranks.items()} for q, ranks in run.to_dict().items()}
        run = m2kr.Run.from_dict(scored, name="mine")
    if change == "version":
        changed.facts = lambda: {"name": "copies", "version": 2}
    if change == "question":
        rows = [dict(row) for row in split]
        queries = [
            {"id": r["question_id"], "question": r["question"] + "!", "answers": r["answers"],
             "positives": r["pos_item_ids"]}
            for r in rows
        ]  # fmt: skip
        texts = dict(
            zip(split.passages["passage_id"], split.passages["passage_content"], strict=True)
        )
        split = m2kr.from_records(texts, queries, name="tinyrag", data=tmp_path / "other")
    ask(split, changed, out, run=run, k=2)
    everything = change in ("setting", "version", "question")
    touched = {"text": [1, 2], "order": [2], "score": [2]}.get(change, [0, 1, 2])
    assert kinds_of_calls(changed) == sorted(touched * N), everything


def test_an_image_that_changes_is_asked_anew_and_one_that_is_not_looked_at_is_not_opened(
    tmp_path: Path,
) -> None:
    split = tiny_rag_source(tmp_path / "data", 3)
    photos = Path(split.manifest["image_roots"][0])
    photos = photos if photos.is_absolute() else (split.folder / photos).resolve()

    class Looks(Copies):
        sees_images = True

        def answer(self, image, question, passages):
            self.calls.append((question, ()))
            return str(image.getpixel((0, 0))) if image else "no image"

    out = tmp_path / "out"
    ask(split, Looks(), out, k=1)
    Image.new("RGB", (8, 8), (255, 0, 0)).save(photos / "1.png")
    again = Looks()
    ask(split, again, out, k=1)
    assert len(again.calls) == 2  # the one question, without and with its passage
    assert len(list(out.glob("*.json"))) == 2  # what was answered before is still there
    (photos / "1.png").write_bytes(b"broken")
    ask(split, Copies(), out, k=1)  # looks at none
    with pytest.raises(InputError, match="image"):
        ask(split, Looks(), out, k=1)
    (photos / "1.png").unlink()
    ask(split, Copies(), out, k=1)
    with pytest.raises(MissingError, match=r"1\.png"):
        ask(split, Looks(), out, k=1)
    for policy, seen in (("black", "(0, 0, 0)"), ("skip", "no image")):
        lenient = m2kr.load("tinyrag", data=tmp_path / "data", missing_images=policy)
        reader = Looks()
        result = ask(lenient, reader, out, k=1)[0]
        assert len(reader.calls) == 2
        assert result.images["found"] == 2
        assert any("1 of 3 images are missing" in note for note in result.notes)
        answers = {r["question_id"]: r["answer"] for r in result.records().to_pylist()}
        assert answers["q1"] == seen


def test_own_code_that_is_edited_is_asked_anew(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    (tmp_path / "near.py").write_text("WORD = 'red'\n", encoding="utf-8")
    code = "from near import WORD\n\n\ndef answer(image, question, passages):\n    return WORD\n"
    path.write_text(code, encoding="utf-8")
    split = m2kr.load("tinyrag", data=data)

    def asked() -> int:
        return ask(split, f"{path}:answer", tmp_path / "out", k=1).spent.asked

    assert asked() == 2 * N
    assert asked() == 0
    (tmp_path / "near.py").write_text("WORD = 'blue'\n", encoding="utf-8")
    assert asked() == 2 * N
    functions = []
    for word in ("red", "green"):  # as in a notebook: no file
        space: dict = {}
        exec(f"def f(image, question, passages): return {word!r}", space)
        functions.append(space["f"])
    for function in functions:
        result = ask(split, function, tmp_path / "out", k=1)
        assert result.spent.asked == 2 * N
    assert {r["answer"] for r in result[0].records().to_pylist()} == {"green"}


BROKEN: dict[str, Callable[..., object]] = {
    "none": lambda *_: None,
    "number": lambda *_: 7,
    "nan": lambda *_: ("red", float("nan")),
    "score": lambda *_: ("red", "high"),
    "text": lambda *_: Answer(None),  # type: ignore[arg-type]
    "tokens": lambda *_: Answer("red", input_tokens=-1),
    "dollars": lambda *_: Answer("red", dollars=float("inf")),
    "passage": lambda *_: Answer("red", passage_id="p99"),
    "detail": lambda *_: Answer("red", detail={"x": object()}),
    "raises": lambda *_: 1 / 0,
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_a_reader_breaks_is_one_error_with_the_question_and_the_rest_is_kept(
    split: m2kr.Split, tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Breaks(Copies):
        broken = True

        def answer(self, image, question, passages):
            said = super().answer(image, question, passages)
            return BROKEN[kind]() if self.broken and "3" in question else said

    reader = Breaks()
    with pytest.raises(M2KRError) as caught:
        ask(split, reader, tmp_path, k=1)
    assert "q3" in str(caught.value)
    assert "copies" in str(caught.value) or kind == "raises"
    assert "are kept in" in caplog.text
    asked = len(reader.calls) - 1
    reader.broken = False
    done = ask(split, reader, tmp_path, k=1)
    assert done.spent.asked == 2 * N - asked
    assert asked == 6


def test_readers_that_answer_several_are_held_to_their_numbers(
    split: m2kr.Split, tmp_path: Path
) -> None:
    class Several(Copies):
        batch = 5
        order: Callable[[list[int]], list[int]] = staticmethod(lambda numbers: numbers[::-1])  # type: ignore[assignment]

        def answers(self, requests):
            assert len(requests) <= self.batch
            self.calls += [(r.question, ()) for r in requests]
            for number in self.order(list(range(len(requests)))):
                yield number, requests[number].question_id if number < len(requests) else ""

    reader = Several()
    result = ask(split, reader, tmp_path / "right", k=1)[0]
    assert all(r["answer"] == r["question_id"] for r in result.records().to_pylist())
    assert len(reader.calls) == 2 * N
    for name, order in {
        "twice": lambda numbers: [*numbers, 0],
        "too few": lambda numbers: numbers[:-1],
        "beyond": lambda numbers: [*numbers, 99],
    }.items():
        reader.order = order
        with pytest.raises(InputError, match="copies"):
            ask(split, reader, tmp_path / name, k=1)


def test_the_oracle_gives_the_right_passages_with_the_answer_first(tmp_path: Path) -> None:
    texts = {"a": "nothing here", "b": "the sea", "c": "It is Red.", "d": "more", "e": "red"}
    queries = [
        {"id": "q", "question": "?", "answers": ["red"], "positives": ["d", "a", "c", "e"]},
        {
            "id": "graded",
            "question": "?",
            "answers": ["sea"],
            "positives": {"a": 1, "b": 2, "d": 2},
        },
        {"id": "none", "question": "?", "answers": ["red"], "positives": []},
    ]
    split = m2kr.from_records(texts, queries, name="o", data=tmp_path, relevance_threshold=2)
    del queries[0]["positives"]
    reader = Copies()
    result = ask(split, reader, tmp_path / "out", k=(1, 3))[0]
    given = {(r["question_id"], r["arm"]): r["passage_ids"] for r in result.records().to_pylist()}
    assert ("none", "oracle") not in given  # it has no right passage, which is never a wrong answer
    assert given["graded", "oracle"] == ["b", "d"]  # below the threshold nothing is right
    assert result.counts["no_right_passage"] == 2 - (("q", "oracle") in given)
    plain = m2kr.from_records(
        texts, [queries[0] | {"positives": ["d", "a", "c", "e"]}], name="p", data=tmp_path
    )
    result = ask(plain, reader, tmp_path / "out", k=(1, 3))[0]
    rows = result.records().to_pylist()
    assert [r["passage_ids"] for r in rows if r["arm"] == "oracle"] == [["c", "e", "d"]]


def test_what_a_scorer_cant_judge_is_null_and_no_mean_is_made_of_it(
    split: m2kr.Split, tmp_path: Path
) -> None:
    class Doubts:
        name = "doubts"

        def facts(self):
            return {"name": self.name}

        def score(self, prediction, gold):
            return Verdict(None if prediction == "unknown" else 1.0, "never sure", {"a": 1})

        def totals(self, verdicts, golds):
            return {"share": len([v for v in verdicts if v.score]) / len(golds)}

    result = ask(
        split, Copies(), tmp_path, run=all_of(["p0"]), k=1, scorers=[Doubts(), "exact_match"]
    )[0]
    assert [
        (row["mean"], row["judged"], row["not_judged"], row["figures"])
        for row in result.totals["doubts"]
    ] == [(None, 0, N, {"share": 0}), (1, N, 0, {"share": 1}), (1, N, 0, {"share": 1})]
    ends = [(row["least"], row["most"]) for row in result.totals["doubts"]]
    assert ends == [(0, 1), (1, 1), (1, 1)]
    rows = result.records().to_pylist()
    assert [row["score:doubts"] for row in rows] == [None] * N + [1.0] * 2 * N
    assert {row["detail:doubts"] for row in rows} == {'{"a": 1}'}

    class Half(Doubts):
        def score(self, prediction, gold):
            return Verdict(1.0 if gold.question_id == first else None, "exact")

    first = rows[0]["question_id"]
    half = ask(split, Copies(), tmp_path, run=all_of(["p0"]), k=1, scorers=[Half()])[0]
    for row in half.totals["doubts"]:
        assert (row["mean"], row["least"], row["most"], row["judged"]) == (None, 1 / N, 1, 1)

    class Wrong(Doubts):
        def __init__(self, verdict):
            self.verdict = verdict

        def score(self, prediction, gold):
            return self.verdict

    for wrong in (2.0, Verdict(2.0, "x"), Verdict(1.0, None), Verdict(1.0, "x", {"a": object()})):
        with pytest.raises(InputError, match="doubts"):
            ask(split, Copies(), tmp_path, k=1, scorers=Wrong(wrong))


def test_halves_of_characters_in_details_spoil_no_record(split: m2kr.Split, tmp_path: Path) -> None:
    def half(image, question, passages):
        return Answer("red", detail={"a": "x\ud800", "b\ud83d": 2**70})

    rows = ask(split, half, tmp_path, k=1)[0].records().to_pylist()
    assert json.loads(rows[0]["detail"]) == {"a": "x\ufffd", "b\ufffd": 2**70}


def test_settings_reach_whom_they_name_and_others_are_refused(data: Path, tmp_path: Path) -> None:
    reader = f"{reader_file(tmp_path)}:Counting"
    log = tmp_path / "log"

    def asked(**settings: str) -> m2kr.RagResult:
        split = m2kr.load("tinyrag", data=data)
        return ask(split, reader, tmp_path / "out", k=1, settings={"log": str(log), **settings})[0]

    assert asked(temperature="0.5").reader["facts"]["temperature"] == 0.5
    assert asked(**{"reader.temperature": "0.7"}).reader["facts"]["temperature"] == 0.7
    assert asked(**{"Counting.temperature": "0.9"}).reader["facts"]["temperature"] == 0.9
    for key, near in (
        ("temprature", "temperature"),
        ("reader.temprature", "temperature"),
        ("readr.temperature", "reader.temperature"),
    ):
        with pytest.raises(UsageError, match=f"'{near}'"):
            asked(**{key: "1"})
    with pytest.raises(UsageError, match="a number"):
        asked(temperature="hot")
    with pytest.raises(UsageError):
        asked(**{"judge.model": "x"})  # no judge is in use: it would say nothing


def test_runs_are_held_against_the_split(split: m2kr.Split, data: Path, tmp_path: Path) -> None:
    reader = Copies()
    whole = {f"q{i}": ["p0"] for i in range(N)} | {NO_ANSWER: ["p0"]}
    bad = {
        "unknown": (CheckError, run_of(whole | {"q77": ["p0"]}), "q77"),
        "lacks": (CheckError, run_of({"q0": ["p0"]}), "lacks"),
        "passage": (CheckError, run_of(whole | {"q1": ["p0", "nowhere"]}), "nowhere"),
        "shallow": (UsageError, run_of(whole, k=1), "1 deep"),
    }
    for error, run, words in bad.values():
        with pytest.raises(error, match=words):
            ask(split, reader, tmp_path, run=run)
    with pytest.raises(MissingError):
        ask(split, reader, tmp_path, run=tmp_path / "none.trec")
    with pytest.raises(MissingError, match=r"no retriever of that name(.|\n)*bm25"):
        ask(split, reader, tmp_path, run="bm26")
    with pytest.raises(UsageError, match="k is"):
        ask(split, reader, tmp_path, k="1,x")
    assert not reader.calls
    lenient = ask(split, reader, tmp_path, run=run_of({"q0": ["p0"]}), missing_queries="empty")[0]
    assert any("lacks 8 queries" in note for note in lenient.notes)
    other = run_of(whole, fingerprints={"pool": "fp1:other"})
    assert any(
        "other passages" in note for note in ask(split, reader, tmp_path, run=other)[0].notes
    )
    searched = ask(split, reader, tmp_path, run="random", k=2)[0]
    assert searched.retriever["name"] == "random"


def test_a_source_without_answers_and_readers_that_are_none_are_refused(
    split: m2kr.Split, tmp_path: Path
) -> None:
    mute = m2kr.from_records({"p": "x"}, [{"id": "q", "question": "?", "positives": ["p"]}],
                             name="mute", data=tmp_path)  # fmt: skip
    with pytest.raises(InputError, match="accepted answer"):
        ask(mute, Copies(), tmp_path)
    for wrong in (Copies, object(), ReaderBase()):
        with pytest.raises(InputError):
            ask(split, wrong, tmp_path)
    with pytest.raises(UsageError, match="extractive"):
        ask(split, "extractiv", tmp_path)
    with pytest.raises(MissingError, match=r"none\.py"):
        ask(split, f"{tmp_path}/none.py:A", tmp_path)
    (tmp_path / STORE_NAME).write_bytes(b"no database, but long enough to be looked at" * 40)
    with pytest.raises(InputError, match=STORE_NAME):
        ask(split, Copies(), tmp_path)


def forked(work: Callable[[], object]) -> int:
    """A child that does some work and ends."""
    pid = os.fork()
    if pid:
        return pid
    signal.alarm(60)  # of a child that stands still no test waits for ever
    code = 1
    try:
        work()
        code = 0
    finally:
        os._exit(code)


def lines(log: Path) -> list[str]:
    return log.read_text(encoding="utf-8").splitlines() if log.exists() else []


def test_two_processes_at_once_divide_the_questions(split: m2kr.Split, tmp_path: Path) -> None:
    log, run = tmp_path / "log", all_of(["p0", "p1"])
    children = [
        forked(lambda: ask(split, Copies(log, pause=0.004), tmp_path / "out", run=run, k=(1, 2)))
        for _ in range(2)
    ]
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0, 0]
    assert len(lines(log)) == 4 * N
    assert len(list((tmp_path / "out").glob("*.json"))) == 1
    assert not list((tmp_path / "out").glob(".*"))


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_and_pays_for_no_kept_answer_again(
    split: m2kr.Split, tmp_path: Path
) -> None:
    log, out, run = tmp_path / "log", tmp_path / "out", all_of(["p0", "p1", "p2"])
    random = np.random.default_rng(0)

    def work() -> None:
        ask(split, Copies(log, pause=0.01), out, run=run, k=(1, 2, 3))

    for _ in range(10):
        pid = forked(work)
        time.sleep(float(random.uniform(0.02, 0.25)))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    last = Copies(log)
    result = ask(split, last, out, run=run, k=(1, 2, 3))
    asked = lines(log)
    # Of each kill the one question that was being asked at that moment may have been asked twice.
    assert (
        len(set(asked)) == 5 * N - 1
    )  # the first's right passage is the run's first, and scores otherwise
    assert 5 * N <= len(asked) <= 5 * N + 10
    assert len(result[0].records()) == 5 * N
    assert not [marker for marker in out.glob(".*.lock") if marker.stat().st_size]
    assert ask(split, last, out, run=run, k=(1, 2, 3)).spent.asked == 0


def test_an_interrupt_keeps_what_was_answered(split: m2kr.Split, tmp_path: Path) -> None:
    class Interrupted(Copies):
        def answer(self, image, question, passages):
            if len(self.calls) == 5:
                self.calls.append(("", ()))
                raise KeyboardInterrupt
            return super().answer(image, question, passages)

    reader = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        ask(split, reader, tmp_path, k=1)
    assert ask(split, reader, tmp_path, k=1).spent.asked == 2 * N - 5


def test_without_a_folder_the_records_are_in_memory(split: m2kr.Split) -> None:
    result = ask(split, Copies(), None, k=1)[0]
    assert result.path is None
    assert len(result.records(["answer"])) == 2 * N
