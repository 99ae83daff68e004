"""The ledger holds every published number once, typed, and never two kinds of number as one."""

import csv
import hashlib
import re
import shlex
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from m2kr.cli.main import app
from m2kr.errors import M2KRError
from m2kr.evaluation.metrics import metrics, parse
from m2kr.reproduce.targets import find_target
from m2kr.sources import RELEASED
from m2kr_leaderboard.claims import (
    CLAIM_METRICS,
    CLAIMS,
    Claim,
    by_protocol,
    claims_of,
    load_claims,
)
from m2kr_leaderboard.protocols import PROTOCOLS

# Of the list of published results that the ledger was made from: its rows (model, dataset, metric, k,
# value), tab-separated, sorted, joined by newlines.
LISTED = 282
LISTED_SHA256 = "8db8d5d14f54019f2c08d3c493795820feb5ac86db287a7c4223aea518c83cfc"
STEMS = {
    "recall": {"hit_rate", "entity_recall", "unclear"},
    "pseudo_recall": {"pseudo_recall"},
    "recall_or_pseudo_recall_unclear": {"unclear"},
    "mrr": {"mrr"},
    "mean_recall": {"mean_recall"},
}
CORPORA = {
    "EN": "English",
    "CN": "Chinese",
    "GoogleSearch": "Google Search",
    "Wiki11M": "Wikipedia, 11M",
    "2M KB": "Wikipedia, 2M pages",
    "100K KB": "Wikipedia, 100K pages",
}


@pytest.fixture(scope="module")
def claims() -> list[Claim]:
    return load_claims()


def test_every_listed_number_is_there(claims: list[Claim]) -> None:
    lines = sorted(
        f"{c.listed_model}\t{c.listed_dataset}\t{c.listed_metric}\t{c.k}\t{c.printed}"
        for c in claims
    )
    assert len(lines) == LISTED
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == LISTED_SHA256


def test_types_are_what_was_listed(claims: list[Claim]) -> None:
    for claim in claims:
        stem = claim.metric.partition("@")[0]
        assert stem in STEMS.get(claim.listed_metric, {claim.listed_metric}), claim.id
        name, _, corpus = claim.listed_dataset.partition("(")
        if claim.protocol == "www2025-challenge":
            continue
        assert claim.source == re.sub(r"\W", "", name).lower(), claim.id
        expected = CORPORA[corpus.rstrip(")")] if corpus else ""
        if claim.protocol == "answering-google-search":  # named in its model, or in its paper
            expected = "Google Search"
        assert claim.corpus == expected, claim.id
        size = re.search(r"ViT-[BLGH]|7B", claim.listed_model)
        assert (size[0] if size else "") in claim.size, claim.id


def test_a_system_has_one_spelling(claims: list[Claim]) -> None:
    spellings = {claim.system for claim in claims}
    folded = Counter(re.sub(r"[^a-z0-9]", "", name.lower()) for name in spellings)
    assert max(folded.values()) == 1, folded


def test_nothing_is_merged_across_protocols(claims: list[Claim]) -> None:
    names = ("system", "variant", "size", "source", "corpus", "split", "metric", "protocol")
    keys = Counter(tuple(getattr(claim, name) for name in names) for claim in claims)
    assert max(keys.values()) == 1
    assert len({claim.id for claim in claims}) == len(claims)
    # One listed source text never stands for two corpora or two kinds of number.
    kinds = {(c.protocol, c.source, c.corpus, c.metric): c.listed_dataset for c in claims}
    for claim in claims:
        same = kinds[claim.protocol, claim.source, claim.corpus, claim.metric]
        assert same == claim.listed_dataset, claim.id
    assert sum(len(group) for group in by_protocol(claims).values()) == len(claims)


def test_chinese_is_another_protocol_and_the_challenge_too(claims: list[Claim]) -> None:
    for claim in claims:
        assert (claim.corpus == "Chinese") == (claim.protocol == "m2kr-cn"), claim.id
        assert (claim.source == "www2025-mdr") == (claim.protocol == "www2025-challenge"), claim.id
        assert ("ReT_" in claim.listed_model) == (claim.protocol == "ret-m2kr"), claim.id
        assert (claim.metric.startswith("mrr@")) == (claim.protocol == "mire"), claim.id
        if claim.protocol.startswith("m2kr"):
            assert claim.source in RELEASED, claim.id
        assert (claim.task == "answering") == claim.protocol.startswith("answering"), claim.id


def test_what_may_not_be_used_says_so(claims: list[Claim]) -> None:
    for claim in claims:
        old = "Feb2024" in claim.listed_model
        assert old == (claim.state == "superseded") == (claim.confidence == "do-not-use"), claim.id
        buggy = "doubled_instruction" in claim.listed_model or "stale_cache" in claim.listed_model
        assert buggy == (claim.state == "buggy input"), claim.id
        assert claim.confidence_reason and claim.status_reason and claim.origin, claim.id


@pytest.fixture(scope="module")
def root() -> Any:
    group: Any = typer.main.get_command(app)
    return group.make_context("m2kr", [], resilient_parsing=True)


def parsed(root: Any, command: str) -> dict[str, Any]:
    """A command's options as the command line reads them; nothing runs."""
    program, *words = shlex.split(command)
    assert program == "m2kr"
    _, sub, rest = root.command.resolve_command(root, words)
    params: dict[str, Any] = sub.make_context(sub.name, rest, parent=root).params
    return params


def test_every_command_parses(claims: list[Claim], root: Any) -> None:
    with pytest.raises(Exception, match="No such option"):
        parsed(root, "m2kr eval okvqa --retriever bm25 --no-such-option")
    for claim in claims:
        assert bool(claim.command) != bool(claim.no_command), claim.id
        if not claim.command:
            continue
        given_ = parsed(root, claim.command)
        name = shlex.split(claim.command)[1]
        assert name == "score-answers" or name == "rag" or claim.task == "retrieval", claim.id
        if name == "eval":
            assert given_["source"].split(".")[0] == claim.source, claim.id
            wanted = {
                claim.metric.replace("unclear", kind) for kind in ("hit_rate", "pseudo_recall")
            }
            assert set(given_["metrics"].split(",")) <= wanted, claim.id
            assert all(parse(metric) for metric in given_["metrics"].split(","))
        elif name in ("rag", "score-answers"):
            assert given_["source"] == claim.source, claim.id
            assert given_["scorer"] == [claim.source], claim.id


def test_figures_are_those_that_reproduce_compares_with(claims: list[Claim]) -> None:
    """No double truth: both files say the same, and neither has a figure that the other lacks."""
    of_claims, of_targets = set(), set()
    for claim in claims:
        words = shlex.split(claim.command)
        if words[1:2] == ["reproduce"]:
            assert words[3:] == ["--sources", claim.source], claim.id
            of_claims.add((words[2], claim.source, claim.metric, float(claim.printed)))
    for name in {figure[0] for figure in of_claims}:
        for figure in find_target(name).figures:
            of_targets |= {
                (name, figure.source, figure.metric, value)
                for value in (figure.value, *figure.others.values())
            }
    assert len(of_claims) > 50
    assert of_claims == of_targets


def test_metrics_of_m2kr_have_its_names() -> None:
    ours = {"hit_rate", "pseudo_recall", "mrr"}
    assert ours == set(CLAIM_METRICS) & set(metrics())
    assert all(protocol.apart.endswith(".") for protocol in PROTOCOLS.values())


def test_claims_of_a_board(claims: list[Claim]) -> None:
    okvqa = claims_of("okvqa.test", claims)
    assert {claim.source for claim in okvqa} == {"okvqa"}
    assert {"m2kr", "google-search", "mire", "ret-m2kr"} <= {claim.protocol for claim in okvqa}
    assert all(claim.split in ("", "test") for claim in okvqa)
    assert len(okvqa) == sum(claim.source == "okvqa" for claim in claims)
    assert claims_of("okvqa.train", claims) == [c for c in okvqa if not c.split]
    assert claims_of("mini.test", claims) == claims_of("mean", claims) == []


def rows() -> list[dict[str, str]]:
    with CLAIMS.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def written(path: Path, content: list[dict[str, str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(content[0]))
        writer.writeheader()
        writer.writerows(content)
    return path


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("id", ""),
        ("id", "A B"),
        ("system", ""),
        ("system", "line\nbreak"),
        ("system", "right\u202eleft"),
        ("origin", "e\u0301"),
        ("metric", "recall@5"),
        ("metric", "hit_rate@10"),
        ("k", "10"),
        ("printed", "NaN"),
        ("printed", "1e1"),
        ("value", "0.99"),
        ("value", "inf"),
        ("protocol", "m2kr2"),
        ("task", "answering"),
        ("confidence", "sure"),
        ("split", "dev"),
        ("status", "verified"),
        ("status", "blocked by luck"),
        ("status", "blocked by data, weights"),
        ("status", "differs by much"),
        ("command", "rm -rf /"),
        ("command", "m2kr eval 'okvqa"),
        ("no_command", "both"),
    ],
)
def test_a_bad_row_is_one_clear_error(tmp_path: Path, field: str, text: str) -> None:
    content = [dict(row) for row in rows() if row["metric"] == "pseudo_recall@5"][:3]
    content[1][field] = text
    with pytest.raises(M2KRError) as refused:
        load_claims(written(tmp_path / "claims.csv", content))
    told = str(refused.value)
    assert "claims.csv: faulty claims: 1" in told
    assert told.count("\n  line ") == 1
    assert field in told or field in ("k", "no_command", "command")


def test_all_bad_rows_are_told_at_once(tmp_path: Path) -> None:
    content = [dict(row) for row in rows()][:5]
    content[0]["value"] = content[3]["status"] = "x"
    content[4]["id"] = content[2]["id"]
    with pytest.raises(M2KRError) as refused:
        load_claims(written(tmp_path / "claims.csv", content))
    assert [word in str(refused.value) for word in ("line 2", "line 5", "claims: 3")] == [True] * 3
    twice = [dict(content[1]), dict(content[1]) | {"id": "another"}]
    with pytest.raises(M2KRError, match="same claim of the same origin"):
        load_claims(written(tmp_path / "claims.csv", twice))


@given(st.binary(max_size=400))
def test_no_file_crashes_it(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.csv"
    head = CLAIMS.read_bytes().split(b"\n")[0] + b"\n"
    for body in (content, head + content):
        path.write_bytes(body)
        with suppress(M2KRError):
            load_claims(path)
