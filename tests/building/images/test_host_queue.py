"""Turns of hosts, by a clock of the test's own: budgets are kept, nothing is lost, none is kept waiting."""

import gc
import itertools
import math
import tracemalloc
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2kr.building.images.host_queue import FIRST, Host, HostQueue, WebImage
from m2kr.building.images.hosts import HostRule


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of a store; nothing is written to it where nothing fails."""
    return tmp_path_factory.mktemp("store")


def item(name: object) -> WebImage:
    return WebImage(f"{name}", f"http://x/{name}", [f"http://x/{name}"])


def rule(
    connections: int = 1, per_second: float = 1.0, bytes_per_second: float = math.inf
) -> HostRule:
    return HostRule(
        connections=connections, per_second=per_second, bytes_per_second=bytes_per_second
    )


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0.01, 0.3, 2.0])), max_size=60),
    st.lists(
        st.tuples(st.integers(1, 3), st.sampled_from([0.5, 2.0, 50.0])), min_size=4, max_size=4
    ),
    st.integers(1, 5),
)
def test_budgets_are_kept_and_nothing_is_lost_and_no_time(folder, work, budgets, jobs):
    queue = HostQueue(folder)
    rules = [rule(*budget) for budget in budgets]
    seconds = {}
    for number, (host, took) in enumerate(work):
        queue.put(queue.host(f"{host}", rules[host], 0.0), item(number))
        seconds[f"{number}"] = took
    now = 0.0
    running: list[tuple[float, Host, WebImage]] = []
    starts: dict[str, list[float]] = {f"{host}": [] for host in range(4)}
    order: dict[str, list[int]] = {f"{host}": [] for host in range(4)}
    while True:
        while len(running) < jobs and (due := queue.due(now)):
            host, got = due
            starts[host.name].append(now)
            order[host.name].append(int(got.name))
            running.append((now + seconds[got.name], host, got))
            active = Counter(h.name for _, h, _ in running)[host.name]
            assert active <= rules[int(host.name)].connections
        wake = queue.wake() if len(running) < jobs else None
        if not running and wake is None:
            break
        ends = min((end for end, _, _ in running), default=math.inf)
        assert wake is None or wake > now  # nothing that could have begun has not
        now = min(ends, math.inf if wake is None else wake)
        for entry in [entry for entry in running if entry[0] <= now]:
            running.remove(entry)
            queue.ended(entry[1], 0, now)
    queue.end()
    for host, times in starts.items():
        apart = 1 / rules[int(host)].per_second
        assert all(b - a >= apart - 1e-9 for a, b in itertools.pairwise(times))
        assert order[host] == [n for n, (h, _) in enumerate(work) if f"{h}" == host]


def test_hosts_take_turns(folder):
    queue = HostQueue(folder)
    for name in "abc":
        host = queue.host(name, rule(5, math.inf), 0.0)
        for number in range(3):
            queue.put(host, item(number))
    dues = iter(lambda: queue.due(0.0), None)
    assert "".join(due[0].name for due in dues) == "abcabcabc"


def test_bytes_count_over_a_window(folder):
    queue = HostQueue(folder)
    host = queue.host("a", rule(1, math.inf, bytes_per_second=100), 0.0)
    for number in range(100):
        queue.put(host, item(number))
    now, sent = 0.0, []
    while due := queue.due(now) or (queue.wake() and queue.due(now := queue.wake())):
        sent.append(now)
        queue.ended(due[0], 300, now)
    # 30,000 bytes at 100 a second, of which a window of ten seconds' may come at once.
    assert 280 <= sent[-1] <= 300
    for start in sent:
        assert sum(300 for at in sent if start <= at < start + 10) <= 2 * 1000 + 300


def test_pauses_delays_and_ends_of_hosts(folder):
    queue = HostQueue(folder)
    a, b = (queue.host(name, rule(1, math.inf), 0.0) for name in "ab")
    for host in (a, b):
        for number in range(3):
            queue.put(host, item(f"{host.name}{number}"))
    host, first = queue.due(0.0)
    assert host is a
    queue.ended(a, 0, 0.0)
    a.paused = 5.0
    queue.put(a, first, FIRST)
    host, other = queue.due(0.0)
    queue.ended(b, 0, 0.0)
    queue.put(b, other, 2.0)
    names = []
    for now in (0.0, 1.0, 2.0, 2.0, 4.9, 5.0):
        due = queue.due(now)
        names.append(due[1].name if due else "")
        if due:
            queue.ended(due[0], 0, now)
    assert names == ["b1", "b2", "b0", "", "", "a0"]
    queue.put(a, item("a9"), 7.0)
    assert a.closed is None
    assert sorted(each.name for each in queue.close(a, ("rule", "why"))) == ["a1", "a2", "a9"]
    assert queue.host("a", a.rule, 9.0).closed == ("rule", "why")
    assert (queue.due(9.0), queue.wake()) == (None, None)
    queue.end()


def test_one_that_waits_longer_holds_up_no_other_of_its_host(folder):
    queue = HostQueue(folder)
    host = queue.host("a", rule(2, math.inf), 0.0)
    queue.put(host, item("late"), 60.0)
    assert (queue.due(0.0), queue.wake()) == (None, 60.0)
    queue.put(host, item("soon"))
    assert queue.due(0.0) == (host, item("soon"))
    queue.ended(host, 0, 0.0)
    assert (queue.due(59.0), queue.wake()) == (None, 60.0)
    assert queue.due(60.0) == (host, item("late"))
    assert queue.wake() is None


def test_hosts_are_forgotten_unless_something_needs_to_be_known_of_them(folder):
    queue = HostQueue(folder)
    for number in range(15_000):
        now = number / 10
        host = queue.host(f"h{number}", rule(), now)
        queue.put(host, item(number))
        assert queue.due(now) is not None
        host.failures += number % 100 == 0
        queue.ended(host, 10, now)
    del host
    kept = sum(isinstance(each, Host) for each in gc.get_objects())
    assert kept < 11_000
    assert queue.host("h0", rule(), now).failures == 1
    queue.end()


@pytest.mark.parametrize("hosts", [1, 2000])
def test_many_that_wait_take_little_memory(folder, hosts):
    count = 6_000
    tracemalloc.start()
    queue = HostQueue(folder)
    for number in range(count):
        queue.put(queue.host(f"{number % hosts}", rule(9, math.inf), 0.0), item(number))
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    # All would be 3.5 MB; each host costs 800 bytes.
    assert used < 1e6 + 800 * hosts
    seen: dict[str, list[int]] = {}
    while due := queue.due(0.0):
        seen.setdefault(due[0].name, []).append(int(due[1].name))
        queue.ended(due[0], 0, 0.0)
    assert seen == {f"{host}": list(range(host, count, hosts)) for host in range(hosts)}
    queue.end()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["put", "first", "take"]), st.sampled_from("ab")), max_size=60
    )
)
def test_each_host_has_a_line(folder, steps):
    queue = HostQueue(folder)
    hosts = {name: queue.host(name, rule(1, math.inf), 0.0) for name in "ab"}
    lines: dict[str, list[str]] = {"a": [], "b": []}
    for number, (step, name) in enumerate(steps):
        if step == "take":
            due = queue.due(0.0)
            assert (due is None) == (not any(lines.values()))
            if due is not None:
                lines[due[0].name].remove(due[1].name)  # of this host, and for the first time
                queue.ended(due[0], 0, 0.0)
        else:
            queue.put(hosts[name], item(number), FIRST if step == "first" else 0.0)
            lines[name].append(f"{number}")
        assert {name: host.waiting for name, host in hosts.items()} == {
            name: len(line) for name, line in lines.items()
        }
    queue.end()
