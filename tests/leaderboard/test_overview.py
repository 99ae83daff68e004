"""The first page's table of systems by boards, published numbers beside it, and the charts."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.made_boards import made_board, made_entry

from m2kr_leaderboard.boards import Board
from m2kr_leaderboard.claims import Claim, load_claims
from m2kr_leaderboard.site.build import build_site
from m2kr_leaderboard.site.charts import PlottedSystem, radar_chart, score_chart
from m2kr_leaderboard.site.figures import milliseconds


class Table(HTMLParser):
    """Texts of a page's cells, by table and row, and their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.attributes: list[dict[str, str | None]] = []
        self.shapes: list[tuple[str, dict[str, str | None]]] = []
        self._in_cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
            self.attributes.append(dict(attrs))
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self._in_cell = True
        elif tag in ("circle", "polygon", "path"):
            self.shapes.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = self._in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.tables[-1][-1][-1] += data


def built(folder: Path, boards: list[Board], claims: list[Claim] | None = None) -> Path:
    return build_site(boards, claims or [], folder / "site")


def three_boards() -> list[Board]:
    scores = {"okvqa": (0.5, 0.4), "wit": (0.3, 0.6), "evqa": (None, 0.2)}
    return [
        made_board(
            [
                made_entry(name, source, score=score, title=name.title(), **facts)
                for name, score, facts in zip(
                    ("ours", "theirs"),
                    of,
                    (
                        {"parameters": 0, "cost": {"seconds_per_query": 0.5}},
                        {"kind": "re-rank", "parameters": None, "cost": {"seconds_per_query": 2.0}},
                    ),
                    strict=True,
                )
                if score is not None
            ]
        )
        for source, of in scores.items()
    ]


def test_a_system_is_a_row_and_blank_where_it_has_no_run(tmp_path: Path) -> None:
    page = Table((built(tmp_path, three_boards()) / "index.html").read_text(encoding="utf-8"))
    heads, *rows = page.tables[0]
    assert [head.split()[0] for head in heads[:4]] == ["System", "E-VQA", "OKVQA", "WIT"]
    ours, theirs = rows  # as on the board with most systems
    assert (ours[0][:4], theirs[0][:6]) == ("Ours", "Theirs")
    assert [cell[:4] for cell in ours[1:4]] == ["", ".500", ".300"]
    assert [cell[:4] for cell in theirs[1:4]] == [".200", ".400", ".600"]
    facts = [row for row in page.attributes if "data-kind" in row]
    assert [(row["data-kind"], row["data-size"]) for row in facts] == [
        ("single-stage", "none"),
        ("re-rank", "not stated"),
    ]


def test_published_numbers_stand_by_protocol_and_never_among_ranks(tmp_path: Path) -> None:
    claims = load_claims()
    text = (built(tmp_path, three_boards(), claims) / "index.html").read_text(encoding="utf-8")
    sections = re.split(r'<section data-beside="([a-z0-9-]+)" hidden>', text)
    ranked, beside = sections[0], dict(zip(sections[1::2], sections[2::2], strict=True))
    usable = [
        claim
        for claim in claims
        if claim.state not in ("superseded", "buggy input") and claim.confidence != "do-not-use"
    ]
    assert "printed" not in ranked.partition("<table")[2]
    for protocol, section in beside.items():
        shown = re.findall(r'href="claims.html#claim-([^"]+)">([^<]+)</a>', section)
        of_it = [(claim.id, claim.printed) for claim in usable if claim.protocol == protocol]
        assert sorted(shown) == sorted(of_it)
    assert beside.keys() == {claim.protocol for claim in usable}


def test_no_system_at_all_is_a_page_too(tmp_path: Path) -> None:
    text = (built(tmp_path, [], load_claims()) / "index.html").read_text(encoding="utf-8")
    assert "No system has been submitted yet" in text


COSTS = st.one_of(st.just(0.0), st.floats(1e-4, 1e11))
SYSTEMS = st.lists(st.tuples(COSTS, st.floats(0, 1)), min_size=1, max_size=30)


@given(SYSTEMS)
def test_a_chart_has_every_system_and_the_front_that_none_beats(made: list[Any]) -> None:
    systems = [
        PlottedSystem(f"system {i} with a long name", "x", *one, "") for i, one in enumerate(made)
    ]
    chart = score_chart(systems)
    if len({cost for cost, _ in made}) < 2:
        assert chart is None
        return
    assert chart is not None
    assert {point.system for point in chart.points} == set(systems)
    for point in chart.points:
        assert 40 <= point.x <= 700 and 15 <= point.y <= 300
        beaten = any(
            other.score >= point.system.score
            and other.cost <= point.system.cost
            and (other.score, other.cost) != (point.system.score, point.system.cost)
            for other in systems
        )
        assert not (point.front and beaten)
        twin = [
            one
            for one in systems
            if (one.score, one.cost) == (point.system.score, point.system.cost)
        ]
        assert point.front or beaten or len(twin) > 1
    order = sorted(chart.points, key=lambda p: p.system.cost)
    assert [p.x for p in order] == sorted(p.x for p in order)
    boxes = [
        (p.label_x - (6.3 * len(p.label) if p.anchor == "end" else 0), p.label_y, len(p.label))
        for p in chart.points
        if p.label
    ]
    for i, (x, y, n) in enumerate(boxes):
        for other_x, other_y, m in boxes[:i]:
            apart = x + 6.3 * n <= other_x or other_x + 6.3 * m <= x or abs(y - other_y) >= 15
            assert apart
    words = [word for _, word in chart.x_ticks]
    assert len(words) == len(set(words)) <= 12
    assert len({word for _, word in chart.y_ticks}) == len(chart.y_ticks) >= 2


def test_charts_are_on_the_pages(tmp_path: Path) -> None:
    site = built(tmp_path, three_boards())
    board = Table((site / "boards/okvqa.test.html").read_text(encoding="utf-8"))
    points = [attrs for tag, attrs in board.shapes if tag == "circle"]
    assert [point.get("class") for point in points] == [None, "front"]  # by time; one size is known
    theirs = Table((site / "systems/theirs.html").read_text(encoding="utf-8"))
    assert [tag for tag, _ in theirs.shapes].count("polygon") == 5  # four rings and the system's
    ours = Table((site / "systems/ours.html").read_text(encoding="utf-8"))
    assert "polygon" not in [tag for tag, _ in ours.shapes]  # two boards are no radar
    assert Table((site / "index.html").read_text(encoding="utf-8")).shapes == []


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.0000854, "0.085"), (0.0123, "12"), (0.5, "500"), (4.123, "4,100")]
)
def test_times_are_milliseconds_of_two_digits(seconds: float, shown: str) -> None:
    assert milliseconds(seconds) == shown


@pytest.mark.parametrize("count", [0, 2, 3, 10])
def test_a_radar_shows_shares_of_the_best(count: int) -> None:
    chart = radar_chart([(f"board {i}", (i + 1) / count) for i in range(count)])
    assert (chart is not None) == (count >= 3)
    if chart is not None:
        corners = [tuple(map(float, pair.split(","))) for pair in chart.shape.split()]
        for axis, (x, y) in zip(chart.axes, corners, strict=True):
            along = [(axis.x - 260) * axis.share, (axis.y - 190) * axis.share]
            assert (x - 260, y - 190) == pytest.approx(along, abs=0.2)
