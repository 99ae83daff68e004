"""A real run of ``m2kr rag`` with the reader over HTTP, killed again and again."""

import hashlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from servers.chat_server import Ask, ChatServer
from servers.faulty_server import Fault
from support.tiny_rag import tiny_rag_source, tiny_run

from m2kr.rag.records import RagResult

M2KR = Path(sys.executable).with_name("m2kr")
KEY = "planted-Key-0b5e94711"
COUNT = 60


def digest(ask: Ask) -> str:
    """An answer that tells what was asked."""
    return hashlib.sha256(json.dumps(ask["messages"]).encode()).hexdigest()


def kept(out: Path) -> set[str]:
    """The answers that are kept by now."""
    file = out / "answers.sqlite"
    if not file.is_file():
        return set()
    with sqlite3.connect(file) as db:
        try:
            rows = db.execute("SELECT answer FROM answers").fetchall()
        except sqlite3.OperationalError:  # killed before there was a table
            return set()
    return {json.loads(row[0])["text"] for row in rows}


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., "subprocess.Popen[str]"]:
    data = tmp_path / "data"
    tiny_rag_source(data, COUNT)
    run = tiny_run(tmp_path / "run.parquet", COUNT)

    def begin(server: ChatServer, *more: str) -> "subprocess.Popen[str]":
        words = [M2KR, "rag", "tinyrag", "--data", data, "--run", run, "--reader", "http:tiny"]
        words += ["--k", "1,3", "--out", tmp_path / "out", "--set", f"base_url={server.base}"]
        words += ["--set", "backoff=0.01", "--set", "key_env=PLANTED", *more]
        with (tmp_path / "log.txt").open("a", encoding="utf-8") as log:
            return subprocess.Popen(
                words, env={**os.environ, "PLANTED": KEY}, stdout=log, stderr=log, text=True
            )

    return begin


@pytest.mark.slow
def test_killed_at_ten_moments_it_goes_on_asks_nothing_kept_again_and_loses_nothing(
    start: Callable[..., Any], tmp_path: Path
) -> None:
    draw = random.Random(os.environ.get("M2KR_SEED", "7"))
    out = tmp_path / "out"
    with ChatServer(digest, key=KEY, delay=0.03) as server:
        server.fail(server.PATH, Fault(status=503), Fault(truncate=9), Fault(reset=True), times=2)
        before: set[str] = set()
        for kill in range(10):
            asked = len(server.asks)
            process = start(server)
            # From before the first question to within one; the last ones near the end.
            target, deadline = asked + draw.randrange(0, 2 * COUNT // 5), time.monotonic() + 30
            while len(server.asks) < target and process.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.002)
            time.sleep(draw.random() * (0.03 if target > asked else 1.5))
            assert process.poll() in {None, 0}, (tmp_path / "log.txt").read_text(encoding="utf-8")
            process.send_signal(signal.SIGKILL)
            process.wait()
            new = [digest(ask) for ask in server.asks[asked:]]
            assert not before & set(new), f"kill {kill}: what was kept is asked again"
            after = kept(out)
            assert before <= after, f"kill {kill}: a kept answer is lost"
            # An answer arrives and is committed in one step; at most those under way are lost.
            assert len(set(new) - after) <= 4
            before = after
        asked = len(server.asks)
        assert start(server).wait(timeout=120) == 0, (tmp_path / "log.txt").read_text(
            encoding="utf-8"
        )
        assert not before & {digest(ask) for ask in server.asks[asked:]}
        distinct = {digest(ask) for ask in server.asks}
        assert kept(out) == distinct
        # What was under way at a kill is asked again, and so are the four cut replies.
        assert len(server.asks) <= len(distinct) + 10 * 4 + 4
        asked = len(server.requests)
        assert start(server).wait(timeout=120) == 0
        assert len(server.requests) == asked
    [path] = out.glob("tinyrag.test.rag.http.*.json")
    result = RagResult.load(path)
    answers = result.records(["answer", "arm", "k"]).to_pydict()
    assert len(answers["answer"]) == 4 * COUNT
    assert set(answers["answer"]) == distinct
    for file in [*tmp_path.rglob("*")]:
        if file.is_file():
            assert KEY.encode() not in file.read_bytes(), file


@pytest.mark.slow
def test_a_budget_stops_a_run_and_the_same_command_goes_on(
    start: Callable[..., Any], tmp_path: Path
) -> None:
    with ChatServer(digest, key=KEY, usage=(100, 3)) as server:
        prices = ("--set", "price_in=10", "--set", "price_out=100", "--set", "budget=0.15")
        ends = []
        while not ends or ends[-1] != 0:
            asked = len(server.asks)
            ends.append(start(server, *prices).wait(timeout=60))
            assert (len(server.asks) - asked) * 0.0013 <= 0.15
            assert len(kept(tmp_path / "out")) == len(server.asks)
            assert len(ends) < 9
        assert set(ends) == {0, 1}
        assert len({digest(ask) for ask in server.asks}) == len(server.asks)
    assert "the same command goes on" in (tmp_path / "log.txt").read_text(encoding="utf-8")
