"""Turns of hosts, by a clock of the test's own: budgets are kept, nothing is lost, none is kept waiting."""

import itertools
import math
import tracemalloc
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2kr.building.images.hosts import Budget, HostRule
from m2kr.building.images.web_backlog import Backlog, Item
from m2kr.building.images.web_schedule import Schedule


def item(name: object) -> Item:
    return Item(f"{name}", f"http://x/{name}", [f"http://x/{name}"])


def rule(
    connections: int = 1, per_second: float = 1.0, bytes_per_second: float = math.inf
) -> HostRule:
    return HostRule(budget=Budget(connections, per_second, bytes_per_second))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0.01, 0.3, 2.0])), max_size=60),
    st.lists(
        st.tuples(st.integers(1, 3), st.sampled_from([0.5, 2.0, 50.0])), min_size=4, max_size=4
    ),
    st.integers(1, 5),
)
def test_budgets_are_kept_and_nothing_is_lost_and_no_time(work, budgets, jobs):
    schedule = Schedule()
    rules = [rule(*budget) for budget in budgets]
    seconds = {}
    for number, (host, took) in enumerate(work):
        schedule.add(f"{host}", rules[host], item(number), 0.0)
        seconds[f"{number}"] = took
    now = 0.0
    running: list[tuple[float, str, Item]] = []
    starts: dict[str, list[float]] = {f"{host}": [] for host in range(4)}
    order: dict[str, list[int]] = {f"{host}": [] for host in range(4)}
    while True:
        while len(running) < jobs and (due := schedule.due(now)):
            host, got = due
            starts[host].append(now)
            order[host].append(int(got.name))
            running.append((now + seconds[got.name], host, got))
            assert Counter(h for _, h, _ in running)[host] <= rules[int(host)].budget.connections
        wake = schedule.wake() if len(running) < jobs else None
        if not running and wake is None:
            break
        ends = min((end for end, _, _ in running), default=math.inf)
        assert wake is None or wake > now  # nothing that could have begun has not
        now = min(ends, math.inf if wake is None else wake)
        for entry in [entry for entry in running if entry[0] <= now]:
            running.remove(entry)
            schedule.ended(entry[1], 0, now)
    schedule.end()
    for host, times in starts.items():
        apart = 1 / rules[int(host)].budget.per_second
        assert all(b - a >= apart - 1e-9 for a, b in itertools.pairwise(times))
        assert order[host] == [n for n, (h, _) in enumerate(work) if f"{h}" == host]


def test_hosts_take_turns():
    schedule = Schedule()
    for host in "abc":
        for number in range(3):
            schedule.add(host, rule(5, math.inf), item(number), 0.0)
    assert "".join(due[0] for due in iter(lambda: schedule.due(0.0), None)) == "abcabcabc"


def test_bytes_count_over_a_window():
    schedule = Schedule()
    for number in range(100):
        schedule.add("a", rule(1, math.inf, bytes_per_second=100), item(number), 0.0)
    now, sent = 0.0, []
    while due := schedule.due(now) or (schedule.wake() and schedule.due(now := schedule.wake())):
        sent.append(now)
        schedule.ended(due[0], 300, now)
    # 30,000 bytes at 100 a second, of which a window of ten seconds' may come at once.
    assert 280 <= sent[-1] <= 300
    for start in sent:
        assert sum(300 for at in sent if start <= at < start + 10) <= 2 * 1000 + 300


def test_pauses_delays_and_ends_of_hosts():
    schedule = Schedule()
    for host in ("a", "b"):
        for number in range(3):
            schedule.add(host, rule(1, math.inf), item(f"{host}{number}"), 0.0)
    host, first = schedule.due(0.0)
    schedule.ended("a", 0, 0.0)
    schedule.pause("a", 5.0)
    schedule.first("a", first)
    assert (schedule.refuse("a", 4.0), schedule.refuse("a", 5.0)) == (0, 1)
    host, other = schedule.due(0.0)
    schedule.ended("b", 0, 0.0)
    schedule.later("b", other, 2.0)
    names = []
    for now in (0.0, 1.0, 2.0, 2.0, 4.9, 5.0):
        due = schedule.due(now)
        names.append(due[1].name if due else "")
        if due:
            schedule.ended(due[0], 0, now)
    assert names == ["b1", "b2", "b0", "", "", "a0"]
    schedule.later("a", item("a9"), 7.0)
    assert schedule.closed("a") is None
    assert sorted(each.name for each in schedule.close("a", ("rule", "why"))) == ["a1", "a2", "a9"]
    assert schedule.closed("a") == ("rule", "why")
    assert (schedule.due(9.0), schedule.wake()) == (None, None)
    schedule.end()


def test_hosts_are_forgotten_unless_something_needs_to_be_known_of_them():
    schedule = Schedule()
    for number in range(15_000):
        now = number / 10
        host = f"h{number}"
        schedule.add(host, rule(), item(number), now)
        assert schedule.due(now) is not None
        if number % 100 == 0:
            schedule.strike(host)
        schedule.ended(host, 10, now)
    assert len(schedule._hosts) < 11_000
    assert schedule.strike("h0") == 2
    schedule.end()


@pytest.mark.parametrize("hosts", [1, 2000])
def test_many_that_wait_take_little_memory(hosts):
    count = 6_000
    tracemalloc.start()
    backlog = Backlog()
    backlog.MOST = 1_000  # type: ignore[misc]
    for number in range(count):
        backlog.put(f"{number % hosts}", item(number))
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    # All would be 3.5 MB; each host costs 800 bytes.
    assert used < 1e6 + 800 * hosts
    seen = [[backlog.take(f"{host}") for _ in range(count // hosts)] for host in range(hosts)]
    assert all(backlog.take(f"{host}") is None for host in range(hosts))
    for host, items in enumerate(seen):
        assert [int(each.name) for each in items] == list(range(host, count, hosts))
    backlog.close()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["put", "first", "take"]), st.sampled_from("ab")), max_size=300
    )
)
def test_a_backlog_is_a_line_for_each_host(steps):
    backlog = Backlog()
    backlog.FRONT = 2  # type: ignore[misc]
    backlog.MOST = 5  # type: ignore[misc]
    lines: dict[str, list[str]] = {"a": [], "b": []}
    taken: Counter[str] = Counter()
    for number, (step, host) in enumerate(steps):
        if step == "take":
            got = backlog.take(host)
            assert (got is None) == (not lines[host])
            if got is not None:
                lines[host].remove(got.name)  # of this host, and for the first time
                taken[host] += 1
        else:
            (backlog.put if step == "put" else backlog.put_first)(host, item(number))
            lines[host].append(f"{number}")
        assert backlog.has(host) == bool(lines[host])
    backlog.close()
