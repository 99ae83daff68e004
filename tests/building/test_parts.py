"""A part that several tables share is whole or an error, wherever it was cut."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.toy_builder import ToyBuilder

from m2kr.building.parts import part_jobs, read_part
from m2kr.building.spec import BuildConfig, BuildContext
from m2kr.errors import CheckError

SIZES = (3, 1, 5)


class Parted(ToyBuilder):
    """One part of three batches."""

    def parts(self, options: Mapping[str, str], splits: Sequence[str]) -> Sequence[str]:
        return ["numbers"]

    def make_part(self, ctx: BuildContext, name: str) -> Iterator[pa.RecordBatch]:
        for size in SIZES:
            yield pa.record_batch([pa.array([f"row {n}" * 20 for n in range(size)])], ["text"])


@settings(max_examples=25)
@given(st.floats(0, 1), st.integers(0, 16))
def test_a_part_that_was_cut_is_never_taken_for_whole(
    tmp_path_factory: pytest.TempPathFactory, share: float, back: int
) -> None:
    config = BuildConfig(Parted(), tmp_path_factory.mktemp("part"), {}, {}, ("test",))
    (config.staging / "parts").mkdir()
    assert sum(map(len, read_part(config, "numbers"))) == sum(SIZES)
    (job,) = part_jobs(config)
    whole = job.file.read_bytes()
    # Anywhere, and just at the ends of batches, where Arrow sees nothing wrong.
    ends = [n for n in range(len(whole) - 8) if whole[n : n + 4] == b"\xff\xff\xff\xff"]
    cut = ends[back % len(ends)] if back else int(share * (len(whole) - 9))
    job.file.write_bytes(whole[:cut])
    with pytest.raises(CheckError, match=r"of 9 rows of this part can be read"):
        list(read_part(config, "numbers"))


def test_a_part_whose_end_mark_alone_is_lost_is_whole(tmp_path: Path) -> None:
    config = BuildConfig(Parted(), tmp_path, {}, {}, ("test",))
    (tmp_path / "parts").mkdir()
    list(read_part(config, "numbers"))
    (job,) = part_jobs(config)
    job.file.write_bytes(job.file.read_bytes()[:-8])
    assert sum(map(len, read_part(config, "numbers"))) == sum(SIZES)
