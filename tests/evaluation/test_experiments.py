"""Results are kept: another experiment never overwrites one, the same experiment does."""

import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from support.commands import call
from support.scores import score
from support.toys import QUERIES, Dense, Late, image_folder, toy_split

import m2kr
from m2kr import api
from m2kr.cli import eval_, output
from m2kr.errors import M2KRError, MissingError, UsageError
from m2kr.report.tables import as_text
from m2kr.retrieval.protocol import Modalities
from m2kr.retrieval.run import Run
from m2kr.search.config import SearchConfig

WORDS = ["tin", "lead", "zinc", "gold"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with one imported source."""
    folder = tmp_path_factory.mktemp("root")
    passages = [{"id": w, "text": f"{w} is a metal, and so are all of them"} for w in WORDS]
    queries = [{"id": f"q{w}", "question": f"what is {w}", "positives": [w]} for w in WORDS]
    m2kr.from_records(passages, queries, name="metals", data=folder)
    m2kr.from_records(passages[:3], queries[:2], name="fewer", data=folder)
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


class Noisy(Dense):
    """Made with an argument that changes its ranking and that no setting tells."""

    name = "noisy"

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self._seed = seed

    def encode_query(self, batch):
        noise = np.random.default_rng(self._seed).random((len(batch), 26))
        return super().encode_query(batch) + noise


def test_experiments_that_differ_in_one_thing_leave_a_result_each(root, tmp_path):
    out = tmp_path / "out"
    other_root = tmp_path / "other"
    shutil.copytree(root, other_root)
    (tmp_path / "a.trec").write_text("".join(f"q{w} Q0 {w} 1 1 t\n" for w in WORDS))
    (tmp_path / "b.trec").write_text("".join(f"q{w} Q0 tin 1 1 t\n" for w in WORDS))

    def run(source="metals", retriever="bm25", **more):
        api.evaluate(source, retriever, data=more.pop("data", root), out=out, **more)

    def everything():
        run()
        run(k=3)
        run(settings={"k1": "0.5"})
        run(settings={"b": "0.5"})
        run(source="fewer")
        run(retriever="random")
        run(retriever="random", settings={"seed": "3"})
        run(retriever="oracle")
        run(data=other_root)
        run(label="again")
        run(metrics="ndcg@3")
        run(ties="trec")
        run(missing_queries="empty")
        run(missing_images="black")
        run(images=[tmp_path])
        run(retriever=Noisy())
        run(retriever=Noisy(1))
        run(retriever=Noisy(seed=2))
        run(retriever=f"run:{tmp_path / 'a.trec'}")
        run(retriever=f"run:{tmp_path / 'b.trec'}")
        for searching in (
            SearchConfig("exact"),
            SearchConfig("compressed", centroids=2),
            SearchConfig("compressed", centroids=2, seed=1),
            SearchConfig("compressed", centroids=2, nbits=8),
            SearchConfig("compressed", centroids=2, widths={"probes": 1}),
        ):
            run(retriever=Late(), search=searching)

    everything()
    saved = sorted(p.name for p in out.glob("*.json"))
    assert len(saved) == 25
    before = {name: json.loads((out / name).read_text(encoding="utf-8")) for name in saved}
    runs = {p.name: p.read_bytes() for p in out.glob("*.run.parquet")}
    assert len(runs) == 25
    everything()
    assert sorted(p.name for p in out.glob("*.json")) == saved
    assert {p.name: p.read_bytes() for p in out.glob("*.run.parquet")} == runs
    noisy = [r for r in before.values() if r["retriever"]["name"] == "noisy"]
    assert sorted(r["retriever"]["arguments"]["seed"] for r in noisy) == [0, 1, 2]
    replayed = api.evaluate("metals", f"run:{out / noisy[2]['files']['run']}", data=root)[0]
    assert replayed.retriever["arguments"] == noisy[2]["retriever"]["arguments"]
    labelled = next(r for r in before.values() if r["retriever"].get("label"))
    assert labelled["files"]["run"].startswith("metals.test.bm25.again.")


def test_a_run_that_is_evaluated_is_not_touched_and_keeps_what_it_recorded(root, tmp_path):
    first = api.evaluate("metals", "bm25", settings={"k1": "0.7"}, data=root, out=tmp_path)[0]
    path = tmp_path / f"{first.name}.run.parquet"
    before = files(tmp_path)
    again = api.evaluate("metals", f"run:{path}", k=2, data=root, out=tmp_path)[0]
    same = api.evaluate("metals", f"run:{path}", data=root, out=tmp_path)[0]
    assert {n: b for n, b in files(tmp_path).items() if n in before} == before
    assert len(files(tmp_path)) == 3 * len(before)
    for result in (again, same):
        assert result.retriever["settings"] == first.retriever["settings"]
        assert result.retriever["settings"]["k1"] == 0.7
        assert result.retriever["modalities"] == first.retriever["modalities"]
        assert result.retriever["run"]["file"] == path.name
    copy = Run.load(tmp_path / f"{again.name}.run.parquet")
    assert (copy.metadata["settings"], copy.metadata["k"]) == (first.retriever["settings"], 2)
    pattern = api.evaluate("metals", f"run:{tmp_path}/{first.name[:-3]}*.run.parquet", data=root)
    assert pattern[0].run == first.run
    with pytest.raises(UsageError, match="3 files have such a name"):
        api.evaluate("metals", f"run:{tmp_path}/metals.test.bm25.*.run.parquet", data=root)


def test_a_run_is_evaluated_as_it_is(root, tmp_path):
    found = m2kr.evaluate("metals", "bm25", data=root, k=20)[0].run
    frame = found.to_pandas()
    first, second = m2kr.evaluate(
        "metals",
        [Run.from_pandas(frame), Run.from_pandas(frame, name="mine")],
        data=root,
        out=tmp_path,
    )
    assert [each.retriever["name"] for each in (first, second)] == ["run", "mine"]
    assert first.run == second.run == found
    assert len([*tmp_path.glob("*.json")]) == 2


def test_two_runs_of_one_tag_in_one_command(root, tmp_path):
    (tmp_path / "a.trec").write_text("".join(f"q{w} Q0 {w} 1 1 Anserini\n" for w in WORDS))
    (tmp_path / "b.trec").write_text("".join(f"q{w} Q0 tin 1 1 Anserini\n" for w in WORDS))
    both = ("-r", f"run:{tmp_path / 'a.trec'}", "-r", f"run:{tmp_path / 'b.trec'}")
    done = call("eval", "metals", *both, "--data", root, "--out", tmp_path / "out", "--json")
    results = json.loads(done.stdout)["results"]
    assert [r["metrics"]["hit_rate@1"]["value"] for r in results] == [1.0, 0.25]
    assert len(list((tmp_path / "out").glob("metals.test.Anserini.*.json"))) == 2
    table = call("eval", "metals", *both, "--data", root, "--out", tmp_path / "out").stdout
    assert "Anserini (a.trec)" in table


class Watched(Dense):
    """Notes that it was asked to encode."""

    asked = 0

    def encode_document(self, batch):
        type(self).asked += 1
        return super().encode_document(batch)


class Seeing(Watched):
    modalities = Modalities(frozenset({"text", "image"}))


def test_all_is_checked_before_the_first_row_is_encoded(root, tmp_path, monkeypatch):
    Watched.asked = 0
    (tmp_path / "file").write_text("")
    (tmp_path / "half.trec").write_text("qtin Q0 tin 1 1 t\n")
    queries = {q: (*row[:3], "gone.png", row[4]) for q, row in QUERIES.items()}
    split = m2kr.load("metals", data=root)
    unseen = toy_split(m2kr.ImageStore(image_folder(tmp_path, "a.png")), queries=queries)
    monkeypatch.setattr(api, "Split", type(unseen) | type(split))
    with pytest.raises(MissingError, match=r"gone\.png"):
        api.evaluate([split, unseen], [Watched(), Seeing()])
    with pytest.raises(M2KRError, match="file"):
        api.evaluate(split, Watched(), out=tmp_path / "file")
    with pytest.raises(M2KRError, match="lacks 3 queries"):
        api.evaluate(split, [Watched(), f"run:{tmp_path / 'half.trec'}"])
    with pytest.raises(UsageError, match="no compressed search"):
        api.evaluate(split, [Watched(), "bm25"], search="compressed")
    with pytest.raises(UsageError, match="there is no metric"):
        api.evaluate(split, Watched(), metrics="ndgc@10")
    with pytest.raises(UsageError, match="--k 50"):
        api.evaluate(split, Watched(), metrics="ndcg@50", k=10)
    assert Watched.asked == 0


def test_what_can_not_be_saved_is_shown(root, tmp_path):
    name = api.evaluate("metals", "bm25", data=root)[0].name
    (tmp_path / f"{name}.json" / "taken").mkdir(parents=True)  # where the result belongs
    args = ("eval", "metals", "-r", "bm25", "-r", "oracle", "--data", root, "--out", tmp_path)
    done = call(*args, code=1)
    assert "metals/test" in done.stdout
    assert "oracle" in done.stdout
    assert done.stderr.count("error: ") == 1
    assert len(list(tmp_path.glob("metals.test.oracle.*.json"))) == 1
    told = json.loads(call(*args, "--json", code=1).stdout)
    assert [r["retriever"]["name"] for r in told["results"]] == ["bm25", "oracle"]
    assert f"{name}.json" in told["error"]["where"]


def test_an_unjudged_source_among_several_gets_its_run(root, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(root, data)
    passages = [{"id": w, "text": w} for w in WORDS]
    m2kr.from_records(passages, [{"id": "q", "question": "gold"}], name="hidden", data=data)
    done = call("eval", "all", "-r", "bm25", "--data", data, "--out", tmp_path / "out")
    assert "hidden/test" in done.stdout
    assert "no judgements: searched, not scored" in " ".join(done.stdout.split())
    (path,) = (tmp_path / "out").glob("hidden.test.bm25.*.run.parquet")
    assert Run.load(path).passage_ids("q")[0] == "gold"
    assert len(list((tmp_path / "out").glob("*.json"))) == 3
    call("eval", "hidden", "-r", "bm25", "--data", data, code=3)


OWN = '''
import numpy as np
import helper_of_metric

def found_at(judged, k):
    """Ranks of the first right passage."""
    return helper_of_metric.clip(judged.first_hit, k)

def short(judged, k):
    return [0.0]

def fails(judged, k):
    return 1 / 0

def hit_rate(judged, k):
    return judged.first_hit

def endless(judged, k):
    return judged.first_hit * float("inf")

class Thing:
    def __call__(self, judged, k):
        return judged.first_hit

thing = Thing()
'''


def test_metrics_by_name_and_of_ones_own(root, tmp_path):
    (tmp_path / "mine.py").write_text(OWN)
    (tmp_path / "helper_of_metric.py").write_text(
        "import numpy as np\ndef clip(ranks, k):\n    return np.minimum(ranks, k + 1)\n"
    )
    common = ("eval", "metals", "-r", "oracle", "--data", root, "--out", tmp_path / "out")
    names = f"ndcg@3,hit_rate@2,{tmp_path / 'mine.py'}:found_at@7,{tmp_path / 'mine.py'}:found_at"
    table = call(*common, "--metrics", names).stdout
    head = next(line for line in table.splitlines() if "source" in line)
    assert [word in head for word in ("nDCG@3", "R@2", "found_at@7", "R@1 ")] == [1, 1, 1, 0]
    told = json.loads(call(*common, "--metrics", names, "--json").stdout)["results"][0]
    assert {n: m["value"] for n, m in told["metrics"].items()} == {
        "ndcg@3": 1.0,
        "hit_rate@2": 1.0,
        "found_at@7": 1.0,
        "found_at": 1.0,
    }
    own = api.evaluate(
        "metals", "oracle", metrics=lambda judged, k: judged.ranks * 0 + k, data=root
    )
    assert own[0].metrics["<lambda>"]["value"] == 500
    for name, message in (
        ("short", "values of shape (1,)"),
        ("fails", "mine.py:13"),
        ("hit_rate", "give yours another name"),
        ("nothing", "found_at, short, fails"),
        ("endless", "infinity"),
        ("Thing", "no arguments"),
    ):
        code = 2 if name == "hit_rate" else 1
        refused = call(*common, "--metrics", f"{tmp_path / 'mine.py'}:{name}@2", code=code)
        assert message in refused.stderr
    assert "Thing@2" in call(*common, "--metrics", f"{tmp_path / 'mine.py'}:thing@2").stdout
    (tmp_path / "other.py").write_text(
        "def found_at(judged, k):\n    return judged.first_hit * 2\n"
    )
    both = ",".join(f"{tmp_path / name}:found_at@2" for name in ("mine.py", "other.py"))
    assert "two metrics are called 'found_at@2'" in call(*common, "--metrics", both, code=2).stderr
    for heading, name in (("P@5", "precision@5"), ("PR@5", "pseudo_recall@5")):
        assert f"'{name}'" in call(*common, "--metrics", heading, code=2).stderr


def test_means_that_leave_queries_out_say_so():
    run = Run.from_dict({q: {"p/apple": 1.0} for q in QUERIES}, name="r")
    lines = as_text([score(toy_split(), run, "hit_rate@1,mrr@1,pseudo_recall@1")]).splitlines()
    assert "toy/test: R@1, MRR@1, PR@1 over 3 of 4 queries; undefined for the others" in lines
    whole = {q: of for q, of in QUERIES.items() if q in ("q1", "q2")}
    lines = as_text([score(toy_split(queries=whole), run.select([*whole]), "hit_rate@1")])
    assert "undefined for the others" not in lines


def test_groups_and_short_answers_are_told():
    queries = {
        f"q{i}": ("?", ["p/apple"], [answer], None, kind)
        for i, (answer, kind) in enumerate(
            [("a", "Time"), ("it", "String"), ("red", "String"), ("is", "Time")]
        )
    }
    split = toy_split(queries=queries)
    split.manifest["groups"] = ["kind", "not_in_an_older_build"]
    run = Run.from_dict({q: {"p/bear": 1.0} for q in queries})
    result = score(split, run)
    assert set(result.groups) == {"kind"}
    # "A bear is a big animal that likes honey.": a and is are words of it, it is none.
    assert result.value("pseudo_recall@5") == 0.5
    assert result.value("pseudo_recall_words@5") == 0.5
    assert result.counts["queries_with_short_answer"] == 3
    assert "3 of 4 queries accept an answer of one or two characters" in result.notes[0]
    assert "by whole words 0.500" in result.notes[0]


@pytest.mark.parametrize("width", [40, 80, 100, 200])
def test_no_number_is_cut_at_any_width(root, monkeypatch, width):
    results = api.evaluate("metals", ["bm25", "oracle"], metrics="full", data=root)
    results.append(replace(results[0], source="a-very-long-name-of-a-source-of-my-own"))
    text = io.StringIO()
    monkeypatch.setattr(output, "console", lambda **_: Console(file=text, width=width))
    eval_.show(results)
    shown = text.getvalue()
    for result in results:
        for name in result.shown:
            assert f"{result.value(name):.3f}".removeprefix("0") in shown
    assert "…" not in shown
    assert max(map(len, shown.splitlines()[:4])) <= width
    told = re.search(r"intervals are left out: a terminal of (\d+) columns", shown)
    assert bool(told) == ("[" not in shown.partition("R@K")[0])
    if told:
        wide = io.StringIO()
        monkeypatch.setattr(
            output, "console", lambda **_: Console(file=wide, width=int(told[1]), no_color=True)
        )
        eval_.show(results)
        assert "[" in wide.getvalue().partition("R@K")[0]
        assert "left out" not in wide.getvalue()
