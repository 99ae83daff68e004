"""What progress bars say of what is done."""

import sys

import pytest

from m2kr.progress_bars import Bars


def test_answers_show_their_rate_and_money_in_dollars(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "xterm")
    with Bars() as bars:
        bars.start("reader", 4000, "answers")
        bars.start("paid", None, "microdollars")
        for _ in range(3):
            bars.advance("reader", 1000)
            bars.advance("paid", 1500)
        shown = [task.fields["amount"] for task in bars._progress.tasks]  # type: ignore[union-attr]
    capsys.readouterr()
    assert shown[0].startswith("3,000 answers, ")
    assert shown[0].endswith("/s")
    assert shown[1] == "$0.0045"
