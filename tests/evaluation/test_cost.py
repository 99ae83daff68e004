"""What an evaluation cost: time and processor time by stage, memory, device, energy, what was reused."""

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from support.tiny import tiny
from support.toys import Counted, Dense, Late, toy_split

import m2kr
from m2kr import api
from m2kr.evaluation import cost, energy, memory
from m2kr.evaluation.harness import evaluate_split
from m2kr.evaluation.result import Result, peak_memory
from m2kr.retrieval.clock import loading
from m2kr.retrieval.replay import RunRetriever
from m2kr.retrieval.run import Run

STAGES = {"load", "encode", "index", "search", "score", "total"}
KEYS = {
    "cpu_seconds",
    "passages_per_second",
    "queries_per_second",
    "peak_host_bytes",
    "peak_host_of",
    "peak_device_bytes",
    "device",
    "energy_joules",
    "energy_of",
    "bytes_per_passage",
    "reused",
}


class Slow(Counted):
    """Takes its time in one call, and its processor in the other."""

    def encode_document(self, batch):
        time.sleep(0.1)
        return super().encode_document(batch)

    def encode_query(self, batch):
        end = time.process_time() + 0.05
        while time.process_time() < end:
            pass
        return super().encode_query(batch)


@pytest.mark.parametrize("retriever", ["bm25", "random", "oracle", Dense(), Late()])
def test_every_result_says_what_it_cost(tmp_path, retriever):
    split = tiny(tmp_path, text="cost")  # which no other test has had indexed in this process
    (result,) = m2kr.evaluate(split, retriever)
    assert set(result.seconds) == set(result.cost["cpu_seconds"]) == STAGES
    assert set(result.cost) == KEYS
    for seconds in (result.seconds, result.cost["cpu_seconds"]):
        assert min(seconds.values()) >= 0
        stages = sum(value for stage, value in seconds.items() if stage != "total")
        assert stages <= seconds["total"] + 1e-4
    assert result.seconds["score"] > 0
    assert result.cost["bytes_per_passage"] == result.bytes_per_passage
    assert result.cost["peak_host_bytes"] > 1 << 20
    assert result.cost["peak_device_bytes"] is None
    assert result.cost["device"].endswith((" cores)", " core)"))
    assert result.cost["passages_per_second"] > 0
    assert result.cost["queries_per_second"] > 0
    assert result.cost["reused"]["rows"] == {}
    json.dumps(result.as_dict())


def test_opening_a_split_is_loading_and_counts_in_the_total(tmp_path, monkeypatch):
    tiny(tmp_path)

    def slowly(*args, **how):
        time.sleep(0.1)
        return m2kr.load(*args, **how)

    monkeypatch.setattr(api, "load", slowly)
    (result,) = m2kr.evaluate("tiny", "random", data=tmp_path)
    assert result.seconds["total"] >= result.seconds["load"] >= 0.1
    assert result.cost["cpu_seconds"]["load"] < result.seconds["load"]


def test_waiting_is_no_processor_time_and_encoding_is_counted_by_side():
    result = evaluate_split(toy_split(), Slow(), k=2)
    wall, cpu = result.seconds["encode"], result.cost["cpu_seconds"]["encode"]
    assert wall >= 2 * 0.1 + 2 * 0.05
    assert 2 * 0.05 <= cpu < wall - 0.1
    assert result.cost["passages_per_second"] <= 4 / (2 * 0.1)
    indexed = result.seconds["index"] + result.seconds["search"]
    assert indexed < result.seconds["total"] - wall  # encoding is in neither


def test_weights_that_are_loaded_while_encoding_are_loading():
    class Heavy(Late):
        def encode_query(self, batch):
            with loading(), loading():
                time.sleep(0.1)
            return super().encode_query(batch)

    result = evaluate_split(toy_split(), Heavy(), k=2)
    assert result.seconds["load"] >= 2 * 0.1
    rest = result.seconds["total"] - result.seconds["load"]
    assert result.seconds["encode"] < rest
    assert all(value >= 0 for value in result.seconds.values())


def test_what_was_kept_is_not_counted_as_encoded(tmp_path):
    first = evaluate_split(toy_split(), Slow(), k=2, cache=tmp_path)
    again = evaluate_split(toy_split(), Slow(), k=2, cache=tmp_path)
    assert first.cost["reused"] == {"rows": {}, "seconds": 0}
    assert again.cost["reused"]["rows"] == {"encode document": 4, "encode query": 4}
    assert again.cost["reused"]["seconds"] > 0
    assert again.seconds["encode"] == again.cost["cpu_seconds"]["encode"] == 0
    assert again.cost["passages_per_second"] is None
    assert again.cost["queries_per_second"] > 0
    named = sum(again.seconds[stage] for stage in STAGES - {"total"})
    assert named + again.cost["reused"]["seconds"] <= again.seconds["total"] + 1e-5


def test_rates_are_of_the_rows_that_were_left_to_encode(tmp_path):
    class Killed(Slow):
        _window_batches = 1

        def encode_document(self, batch):
            if self.count["document"]:
                raise KeyboardInterrupt
            return super().encode_document(batch)

    class Whole(Killed):
        encode_document = Slow.encode_document

    Killed.identity = Whole.identity
    with pytest.raises(KeyboardInterrupt):
        evaluate_split(toy_split(), Killed(), k=2, cache=tmp_path)
    result = evaluate_split(toy_split(), Whole(), k=2, cache=tmp_path)
    assert result.cost["reused"]["rows"] == {"encode document": 2}
    assert result.cost["passages_per_second"] <= 2 / 0.1


def test_a_replayed_run_has_no_rates():
    ranking = {"q1": {"p/apple": 1.0}, "q2": {}, "q3": {}, "q4": {}}
    result = evaluate_split(toy_split(), RunRetriever(Run.from_dict(ranking)), k=2)
    assert result.cost["passages_per_second"] is result.cost["queries_per_second"] is None


def test_peak_memory_is_of_one_evaluation_where_the_kernel_lets_it_be():
    held = np.ones(64 << 17)  # 64 MiB
    del held
    before = peak_memory()
    result = evaluate_split(toy_split(), Dense(), k=2)
    assert result.peak_memory_bytes >= before
    if result.cost["peak_host_of"] == "this evaluation":
        assert result.cost["peak_host_bytes"] < before
    else:
        assert result.cost["peak_host_bytes"] == result.peak_memory_bytes


def test_where_the_mark_stays_the_peak_is_said_to_be_the_process_s(monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "write_text", refuse)
    assert not memory.forget_peak_memory()
    assert cost.Meter().machine()["peak_host_of"] == "the process so far"


def test_results_from_before_costs_were_kept_still_load(tmp_path):
    path = evaluate_split(toy_split(), Dense(), k=2).save(tmp_path)
    old = json.loads(path.read_text(encoding="utf-8"))
    del old["cost"], old["seconds"]["load"], old["seconds"]["score"]
    path.write_text(json.dumps(old), encoding="utf-8")
    result = Result.load(path)
    assert result.cost == {}
    assert "hit_rate" in str(result.metrics)


def test_processors_energy_is_read_over_the_counter_s_end(tmp_path):
    def count(name: str, microjoules: int) -> None:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / "energy_uj").write_text(f"{microjoules}\n")
        (folder / "max_energy_range_uj").write_text("10000000\n")

    count("intel-rapl:0", 9_000_000)
    count("intel-rapl:1", 1_000_000)
    count("intel-rapl:0:0", 0)  # a part of package 0
    before = energy.counters(tmp_path)
    count("intel-rapl:0", 2_000_000)
    count("intel-rapl:1", 1_500_000)
    count("intel-rapl:0:0", 5_000_000)
    after = energy.counters(tmp_path)
    assert energy.joules(before, after, powercap=tmp_path) == (3.5, "processors")
    cards = ({"GPU-a": 5.0, "GPU-b": 1.0}, {"GPU-a": 7.0, "GPU-b": 9.0})
    assert energy.joules(*cards, ["GPU-a"], tmp_path) == (2.0, "GPUs")
    assert energy.joules(*cards, [], tmp_path) == (None, None)


def test_a_gpu_that_was_used_is_named_with_its_memory(monkeypatch):
    """As torch tells it: no GPU is here."""
    held, peak = {0: 1 << 10, 1: 0}, {0: 5 << 20, 1: 0}
    cuda = SimpleNamespace(
        is_available=lambda: True,
        is_initialized=lambda: True,
        device_count=lambda: len(held),
        reset_peak_memory_stats=lambda i: peak.update({i: held[i]}),
        memory_allocated=held.__getitem__,
        max_memory_allocated=peak.__getitem__,
        get_device_properties=lambda i: SimpleNamespace(name=f"Card {i}", uuid=f"u{i}"),
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    joules = iter([{"GPU-u0": 1.0, "GPU-u1": 1.0}, {"GPU-u0": 9.0, "GPU-u1": 3.5}])
    monkeypatch.setattr(energy, "counters", lambda: next(joules))
    meter = cost.Meter()
    peak[1] = 1 << 20  # card 0 keeps what it held
    told = meter.machine()
    assert told["peak_device_bytes"] == 1 << 20
    assert told["device"].startswith("Card 1 + ")
    assert (told["energy_joules"], told["energy_of"]) == (2.5, "GPUs")
