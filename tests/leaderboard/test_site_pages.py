"""Pages of claims, boards, systems and submitting, and the downloads, read from outside."""

import base64
import csv
import dataclasses
import hashlib
import io
import json
import re
import shlex
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import typer
from support.made_boards import CARD, METRICS, made_board, made_entry

from m2kr.building import registry
from m2kr.cli.main import app
from m2kr.display import fit_for_html
from m2kr.errors import M2KRError
from m2kr.sources import builder_modules
from m2kr_leaderboard.boards import Board
from m2kr_leaderboard.claims import Claim, load_claims
from m2kr_leaderboard.protocols import PROTOCOLS
from m2kr_leaderboard.site.build import build_site
from m2kr_leaderboard.site.downloads import csv_cell
from m2kr_leaderboard.source_facts import source_facts
from m2kr_leaderboard.system_card import TrainingData

ROOT = Path(__file__).parent.parent.parent
HOSTILE = (
    "\"'></td></script><script>document.title='harmed'</script><img src=x onerror=alert(1)>{{7*7}}"
)
VOID = {"meta", "link", "img", "br", "input"}


class ReadPage(HTMLParser):
    """A page as a browser reads it; what isn't closed as it was opened fails."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.links: list[dict[str, str]] = []
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.text = self.script = self.policy = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        assert not [name for name in given if name.startswith("on") or name == "style"]
        self.tags[tag] += 1
        if "id" in given:
            self.ids.append(given["id"])
        if tag == "a":
            self.links.append(given)
        if given.get("http-equiv") == "Content-Security-Policy":
            self.policy = given["content"]
        self.loads += [given[name] for name in ("src", "srcset", "data", "action") if name in given]
        if tag == "link":
            self.loads.append(given["href"])
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "script":
            self.script += data
        else:
            self.text += data


def read(folder: Path) -> dict[str, ReadPage]:
    return {
        path.relative_to(folder).as_posix(): ReadPage(path.read_text(encoding="utf-8"))
        for path in sorted(folder.rglob("*.html"))
    }


@pytest.fixture(scope="module")
def claims() -> list[Claim]:
    return load_claims()


def some_boards() -> list[Board]:
    groups = {
        "question_type": {
            kind: {
                "n": n,
                "metrics": {"pseudo_recall@5": {"value": 0.3, "low": 0.2, "high": 0.4, "n": n}},
            }
            for n, kind in enumerate([*(f"kind {i}" for i in range(20)), "place", "person"], 2)
        }
    }
    okvqa = [
        made_entry("preflmr-vit-l", title="PreFLMR, large", score=0.69, headline="pseudo_recall@5"),
        made_entry("mine", score=0.5, headline="pseudo_recall@5", groups=groups, version="2"),
        made_entry(
            *("hostile", "okvqa"),
            score=0.4,
            headline="pseudo_recall@5",
            notes=(HOSTILE,),
            groups={HOSTILE: {HOSTILE: {"n": 3, "metrics": {}}}},
            cost={"seconds_per_query": 0.0123, "peak_host_bytes": 3 * 2**30, "device": HOSTILE},
            **{
                **dict.fromkeys(("title", "version", "licence", "hardware", "note"), HOSTILE),
                "contact": f"https://example.org/{HOSTILE}",
                "authors": (HOSTILE, "=1+1"),
                "training_data": (TrainingData(HOSTILE, HOSTILE),),
                "links": {"page": "javascript:alert(1)", "code": f"https://example.org/?{HOSTILE}"},
                "m2kr_version": HOSTILE,
            },
        ),
    ]
    mini = [
        made_entry("mine", "mini", edition="mini", version="1", date="2026-11-01", score=0.2),
        made_entry("mine", "mini", edition="mini", version="2", score=0.3, status="reproduced"),
    ]
    unknown = [made_entry("mine", "own", edition="own", version="2", score=0.1)]
    return [made_board(okvqa), made_board(mini), made_board(unknown, verified=False)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, claims: list[Claim]) -> Path:
    return build_site(some_boards(), claims, tmp_path_factory.mktemp("site") / "out")


@pytest.fixture(scope="module")
def read_site(site: Path) -> dict[str, ReadPage]:
    return read(site)


def test_two_builds_are_equal_bytes(site: Path, claims: list[Claim], tmp_path: Path) -> None:
    again = build_site(some_boards(), claims, tmp_path / "again")
    files = {p.relative_to(site): p.read_bytes() for p in site.rglob("*") if p.is_file()}
    assert files == {p.relative_to(again): p.read_bytes() for p in again.rglob("*") if p.is_file()}
    assert len(files) > 10
    for content in files.values():
        assert str(tmp_path).encode() not in content and b"/leaderboard/site/" not in content


def test_an_older_site_is_replaced_and_nothing_else(claims: list[Claim], tmp_path: Path) -> None:
    out = build_site(some_boards(), [], tmp_path / "out")
    assert (out / "systems" / "hostile.html").exists()
    build_site(some_boards()[1:], [], out)
    assert not (out / "systems" / "hostile.html").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("mine")
    for place in (other, other / "thesis.tex"):
        with pytest.raises(M2KRError, match="something else"):
            build_site([], [], place)
    assert (other / "thesis.tex").read_text() == "mine"


@pytest.mark.parametrize("name", ["../out", "a/b", "", ".", "..", "a\0b", "a b", ".hidden"])
def test_no_name_leads_out_of_the_site(name: str, tmp_path: Path) -> None:
    with pytest.raises(M2KRError, match="no file of a site"):
        build_site([made_board([made_entry(name)])], [], tmp_path / "site")
    assert list(tmp_path.iterdir()) == []


def test_nothing_of_strangers_is_markup(read_site: dict[str, ReadPage]) -> None:
    for path, page in read_site.items():
        assert page.tags["script"] <= 1 and page.tags["img"] == page.tags["iframe"] == 0, path
        assert "harmed" not in page.script
        if page.script:
            digest = base64.b64encode(hashlib.sha256(page.script.encode()).digest()).decode()
            assert f"script-src 'sha256-{digest}'" in page.policy, path
        else:
            assert "script-src" not in page.policy, path
        assert "default-src 'none'" in page.policy and "unsafe" not in page.policy, path
    assert read_site["systems/hostile.html"].text.count(fit_for_html(HOSTILE)) >= 10
    assert "49" not in read_site["systems/hostile.html"].text.split("{{7*7}}")[0][-3:]


def test_links_lead_somewhere_and_nothing_loads_from_elsewhere(
    site: Path, read_site: dict[str, ReadPage]
) -> None:
    for path, page in read_site.items():
        assert max(Counter(page.ids).values(), default=1) == 1, path
        for link in page.links:
            address = link["href"]
            if address.startswith("https://"):
                assert link["rel"] == "noopener nofollow", (path, address)
                continue
            assert re.match(r"[#./A-Za-z0-9_-]", address), (path, address)
            file, _, part = address.partition("#")
            target = (site / PurePosixPath(path).parent / file).resolve() if file else site / path
            name = target.relative_to(site.resolve()).as_posix()
            assert target.is_file(), (path, address)
            assert not part or "=" in part or part in read_site[name].ids, (path, address)
        for address in page.loads:
            assert (site / PurePosixPath(path).parent / address).resolve().is_file(), (
                path,
                address,
            )
    assert not [
        link
        for page in read_site.values()
        for link in page.links
        if link["href"].lower().startswith("javascript")
    ]


def test_the_ledger_has_all_claims_by_protocol(
    site: Path, read_site: dict[str, ReadPage], claims: list[Claim]
) -> None:
    text = (site / "claims.html").read_text(encoding="utf-8")
    page = read_site["claims.html"]
    assert {f"claim-{claim.id}" for claim in claims} <= set(page.ids)
    assert page.text.count("reported, not recomputed") > len({c.protocol for c in claims})
    for name in {claim.protocol for claim in claims}:
        section = text.split(f'<section class="protocol" id="{name}"')[1].split("</section>")[0]
        own = set(re.findall(r'data-protocol="([^"]+)"', section))
        assert own == {name}
        assert fit_for_html(PROTOCOLS[name].apart.replace("'", "&#39;")) in section
        for claim in claims:
            if claim.protocol == name:
                assert f'id="claim-{claim.id}"' in section
    for claim in claims:
        assert claim.command in page.text and claim.no_command in page.text, claim.id
    assert "M-BEIR and MTEB" in page.text


def test_recomputed_scores_stand_beside_claims_of_the_same(site: Path) -> None:
    """Only of the same system, source, metric, protocol; with the difference in points."""
    text = (site / "claims.html").read_text(encoding="utf-8")

    def row(claim_id: str) -> str:
        return text.split(f'id="claim-{claim_id}"')[1].split("</tr>")[0]

    same = row("preflmr-vit-l.hf.m2kr.okvqa.pseudo_recall@5")
    assert ">69.0</a>" in same and "+0.0" in same and "systems/preflmr-vit-l.html" in same
    assert "−3.6" not in same
    older = row("preflmr-vit-l.original-pytorch-weights.m2kr.okvqa.pseudo_recall@5")
    assert "+0.5" in older
    for other in (
        "preflmr-vit-g.hf.m2kr.okvqa.pseudo_recall@5",
        "preflmr-vit-l.hf.m2kr.wit.hit_rate@10",
        "preflmr-vit-l.hf.m2kr-cn.okvqa.unclear@5",
        "mire.mire.okvqa-google-search.mrr@5",
        "ret-vit-l-14.clip-backbone.ret-m2kr.okvqa.pseudo_recall@5",
    ):
        assert "systems/" not in row(other)
    assert "PreFLMR ViT-L" in (site / "systems" / "preflmr-vit-l.html").read_text("utf-8")


def test_a_site_may_be_empty(tmp_path: Path) -> None:
    site = build_site([], [], tmp_path / "site")
    assert set(read(site)) >= {"claims.html", "submit.html"}
    board = dataclasses.replace(made_board([made_entry("mine")]), rows=[])
    text = read(build_site([board], [], site))["boards/okvqa.test.html"].text
    assert "No run of it has been submitted yet." in text


def test_unverified_data_stand_beside_nothing(tmp_path: Path, claims: list[Claim]) -> None:
    entry = made_entry("preflmr-vit-l", headline="pseudo_recall@5")
    for board in (
        made_board([entry], verified=False),
        made_board([entry], edition="rebuilt"),
        made_board([entry], split="valid"),
    ):
        site = build_site([board], claims, tmp_path / "site")
        assert "Recomputed under this name" not in (site / "claims.html").read_text("utf-8")


def test_a_board_says_what_its_data_are(read_site: dict[str, ReadPage]) -> None:
    text = read_site["boards/okvqa.test.html"].text
    facts = source_facts()["okvqa"]
    for words in (facts.licence, facts.citation.splitlines()[0], "fp1:" + "e" * 64, "2.1 points"):
        assert words in text
    for name in ("By question type", "person", "10 more values", "1–2", "Google-Search corpus"):
        assert name in text, name
    assert "Unverified data." in read_site["boards/own.test.html"].text
    assert "1–2" not in read_site["boards/own.test.html"].text
    assert "Reported" not in read_site["boards/mini.test.html"].text


def test_a_system_page_has_all_that_its_submitter_says(read_site: dict[str, ReadPage]) -> None:
    text = read_site["systems/mine.html"].text
    for words in (*CARD["authors"], CARD["contact"], CARD["hardware"], CARD["note"], "543M"):
        assert words in text
    for words in (
        *CARD["links"].values(),
        "a crawl",
        "not ranked",
        "unverified data",
        "reproduced",
    ):
        assert words in text, words
    for words in (
        "r" * 64,
        "s" * 64,
        "c" * 40,
        "2026-11-01",
        "m2kr submit check leaderboard/submissions/mine",
    ):
        assert words in text, words
    hostile = read_site["systems/hostile.html"].text
    assert (
        "measured by the submitter" in hostile and "3.0 GiB" in hostile and "ms a query" in hostile
    )
    assert "measured by the submitter" not in text  # nothing was measured


def test_submitting_is_told_with_commands_that_parse(
    site: Path, read_site: dict[str, ReadPage]
) -> None:
    html_text = (site / "submit.html").read_text("utf-8")
    commands = re.findall(r"<pre class=\"command\"[^>]*><code>(m2kr [^<]*)</code>", html_text)
    assert 3 <= len(commands) <= 5
    group: Any = typer.main.get_command(app)
    root = group.make_context("m2kr", [], resilient_parsing=True)
    for command in commands:
        if shlex.split(command)[1] not in group.commands:
            pytest.skip(f"{command}: the command line has no such command yet")
        words = shlex.split(command)[1:]
        holder, context = group, root
        while hasattr(holder, "commands"):
            _, holder, words = holder.resolve_command(context, words)
        holder.make_context(holder.name, words, parent=root)
    text = read_site["submit.html"].text
    for words in (
        "recomputed",
        "reproduced",
        "reported",
        "unverified data",
        "proves the arithmetic",
    ):
        assert words in text


def test_what_is_verified_is_what_readme_says(read_site: dict[str, ReadPage]) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.split("## What is verified")[1].split("\n## ")[0]
    table = "".join(line + "\n" for line in section.splitlines() if line.startswith("|"))
    kept = (ROOT / "leaderboard" / "data" / "verified.md").read_text(encoding="utf-8")
    assert kept == table, "copy README's table to leaderboard/data/verified.md"
    text = read_site["submit.html"].text
    for cell in re.split(r"\||\n", table):
        assert cell.strip().replace("`", "") in text or set(cell) <= {"-"}


def test_sources_are_described_as_their_builders_do() -> None:
    assert set(source_facts()) == set(builder_modules())
    for name, facts in source_facts().items():
        source = registry.builder(name).source
        for field in ("title", "summary", "task", "headline", "licence", "homepage", "citation"):
            assert getattr(facts, field) == getattr(source, field), (name, field)


def table_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))


def test_downloads_have_every_score(site: Path, claims: list[Claim]) -> None:
    rows = table_of(site / "data" / "results.csv")
    boards = some_boards()
    assert len(rows) == sum(len(board.rows) for board in boards)
    for board in boards:
        for place in board.rows:
            card, metrics = place.entry.card, place.entry.scored.result.metrics
            row = next(
                r
                for r in rows
                if (r["board"], r["system"], r["version"])
                == (board.key, card.name, csv_cell(card.version))
            )
            for metric in METRICS:
                assert float(row[metric]) == metrics[metric]["value"]
                assert float(row[f"{metric}.low"]) == metrics[metric]["low"]
            assert (row["rank_best"] != "") == board.verified == (row["verified_data"] == "yes")
    told = json.loads((site / "data" / "results.json").read_text(encoding="utf-8"))
    assert [b["key"] for b in told["boards"]] == sorted(board.key for board in boards)
    assert {(s["name"], s["version"]) for s in told["systems"]} >= {("mine", "1"), ("mine", "2")}
    assert len(table_of(site / "data" / "claims.csv")) == len(claims)


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t=", " =", "\r@", "\n-"])
def test_no_cell_is_a_formula(start: str, tmp_path: Path) -> None:
    text = f"{start}HYPERLINK(1)"
    entry = made_entry("odd", title=text, version=text)
    site = build_site([made_board([entry])], [], tmp_path / "site")
    (row,) = table_of(site / "data" / "results.csv")
    assert row["title"] == row["version"] == f"'{text.strip()}"
    assert csv_cell(-0.5) == -0.5


@pytest.mark.parametrize(
    "text",
    [
        "}",
        "{",
        "\\",
        "}}, title={x",
        "a\\",
        "%",
        "é ü 中",
        "\"'@misc{x,",
        "$x_1^2~&#",
        "\n}\n@string{a={",
    ],
)
def test_bibtex_holds_any_text(text: str, tmp_path: Path) -> None:
    entry = made_entry(
        "odd",
        title=text,
        version=text,
        authors=(text, "A and B"),
        links={"paper": f"https://example.org/{text}"},
    )
    site = build_site([made_board([entry])], [], tmp_path / "site")
    content = (site / "data" / "m2kr-leaderboard.bib").read_text(encoding="utf-8")
    depth, heads = 0, []
    for line in content.splitlines():
        if depth == 0 and line.startswith("@"):
            heads.append(line)
        for character in line:  # as BibTeX counts them: escaped ones, too
            depth += {"{": 1, "}": -1}.get(character, 0)
            assert depth >= 0
    assert depth == 0
    assert len(heads) == 4  # m2kr, the paper, the source, the system
    keys = [re.fullmatch(r"@\w+\{([\w:-]+),", head) for head in heads]
    assert all(keys) and len({key[1] for key in keys if key}) == 4
    assert "{A and B}" in content
