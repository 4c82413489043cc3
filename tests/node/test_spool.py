from __future__ import annotations

import os
import random
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from peerinfer.errors import StateUnusable
from peerinfer.ids import JobId
from peerinfer_node.spool import OPEN_FILES_MAX, RECORD_BYTES_MAX, Spool

JOB = JobId("ab" * 16)


@contextmanager
def files_no_larger_than(size_bytes: int) -> Iterator[None]:
    """A disk that is full: the kernel takes what fits and refuses the rest, as it does with ENOSPC."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def file_of(folder: Path, job: JobId = JOB) -> Path:
    return folder / f"{job}.spool"


def test_records_are_read_back_at_their_offsets(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    rng = random.Random(1)
    records = [rng.randbytes(rng.choice((0, 1, 15, 16, 17, 5000))) for _ in range(50)]
    offsets = [spool.append(JOB, [record[:3], memoryview(record)[3:]]) for record in records]
    assert offsets == sorted(set(offsets))
    assert [spool.read(JOB, offset) for offset in offsets] == records
    spool.close()
    again = Spool(tmp_path)
    assert [again.read(JOB, offset) for offset in offsets] == records
    again.close()


def test_a_record_may_come_in_very_many_and_in_typed_buffers(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    many = [bytes([index % 256]) for index in range(3000)]
    typed = memoryview(bytearray(range(64))).cast("I")
    assert spool.read(JOB, spool.append(JOB, many)) == b"".join(many)
    assert spool.read(JOB, spool.append(JOB, [typed, b"", bytearray(b"end")])) == bytes(range(64)) + b"end"
    spool.close()


def test_a_tail_torn_at_any_byte_is_cut_and_the_records_before_it_stay(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    first = spool.append(JOB, [b"first record"])
    second = spool.append(JOB, [b"second"])
    spool.close()
    whole = file_of(tmp_path).read_bytes()
    for size in range(second, len(whole)):
        file_of(tmp_path).write_bytes(whole[:size])
        torn = Spool(tmp_path)
        assert torn.read(JOB, first) == b"first record"
        with pytest.raises(StateUnusable, match="damaged"):
            torn.read(JOB, second)
        assert torn.append(JOB, [b"anew"]) == second
        assert torn.read(JOB, second) == b"anew"
        torn.close()


def test_a_last_record_whose_bytes_never_reached_the_disk_is_cut(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    first = spool.append(JOB, [b"first record"])
    second = spool.append(JOB, [b"second"])
    spool.close()
    whole = file_of(tmp_path).read_bytes()
    for damaged in (whole[:-3] + b"\0\0\0", whole[:second] + bytes(len(whole) - second), whole + bytes(4096)):
        file_of(tmp_path).write_bytes(damaged)
        opened = Spool(tmp_path)
        assert opened.read(JOB, first) == b"first record"
        assert opened.append(JOB, [b"x"]) == (second if len(damaged) == len(whole) else len(whole))
        opened.close()


def test_a_record_damaged_in_the_middle_is_never_handed_out(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    offsets = [spool.append(JOB, [bytes([value]) * 100]) for value in range(3)]
    spool.close()
    data = bytearray(file_of(tmp_path).read_bytes())
    data[offsets[1] + 50] ^= 1
    file_of(tmp_path).write_bytes(data)
    opened = Spool(tmp_path)
    assert opened.read(JOB, offsets[0]) == bytes([0]) * 100
    with pytest.raises(StateUnusable, match="damaged"):
        opened.read(JOB, offsets[1])
    assert opened.read(JOB, offsets[2]) == bytes([2]) * 100
    opened.close()


@pytest.mark.parametrize("offset", [-1, 1, 7, 10**15])
def test_an_offset_where_no_record_starts_is_an_error(tmp_path: Path, offset: int) -> None:
    spool = Spool(tmp_path)
    spool.append(JOB, [b"payload"])
    with pytest.raises(StateUnusable, match="damaged"):
        spool.read(JOB, offset)
    spool.close()


def test_a_full_disk_leaves_nothing_of_the_record_and_the_next_one_fits(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    first = spool.append(JOB, [b"a" * 1000])
    size = file_of(tmp_path).stat().st_size
    with files_no_larger_than(64 * 1024), pytest.raises(StateUnusable, match="full"):
        spool.append(JOB, [b"b" * 40_000, b"c" * 40_000])
    assert file_of(tmp_path).stat().st_size == size
    second = spool.append(JOB, [b"d" * 40_000, b"e" * 40_000])
    assert second == size
    assert spool.read(JOB, first) == b"a" * 1000
    assert spool.read(JOB, second) == b"d" * 40_000 + b"e" * 40_000
    spool.close()


def test_a_record_beyond_the_limit_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append(JOB, [bytes(RECORD_BYTES_MAX)])
    size = file_of(tmp_path).stat().st_size
    with pytest.raises(ValueError, match="passes the limit"):
        spool.append(JOB, [bytes(RECORD_BYTES_MAX), b"1"])
    assert file_of(tmp_path).stat().st_size == size
    spool.close()


@pytest.mark.parametrize("job", ["", "../../etc/passwd", "AB" * 16, "ab" * 16 + "\n", "ab" * 15, "ab" * 16 + "/x"])
def test_what_is_not_a_job_id_never_becomes_a_file_name(tmp_path: Path, job: str) -> None:
    spool = Spool(tmp_path)
    for attempt in (lambda: spool.append(JobId(job), [b"x"]), lambda: spool.forget(JobId(job))):
        with pytest.raises(ValueError, match="not a job id"):
            attempt()
    assert list(tmp_path.iterdir()) == []


def test_a_link_in_place_of_a_spool_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    folder = tmp_path / "jobs"
    folder.mkdir()
    file_of(folder).symlink_to(victim)
    with pytest.raises(StateUnusable, match="cannot use"):
        Spool(folder).append(JOB, [b"x"])
    assert victim.read_bytes() == b"precious"


def test_reading_a_job_without_a_spool_makes_no_file(tmp_path: Path) -> None:
    with pytest.raises(StateUnusable, match="no results"):
        Spool(tmp_path).read(JOB, 0)
    assert list(tmp_path.iterdir()) == []


def test_a_forgotten_job_leaves_no_file_and_its_id_can_be_used_again(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append(JOB, [b"old"])
    spool.forget(JOB)
    spool.forget(JOB)
    assert list(tmp_path.iterdir()) == []
    assert spool.append(JOB, [b"new"]) == 0
    assert spool.read(JOB, 0) == b"new"
    spool.close()


def test_only_spools_of_jobs_are_listed(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append(JOB, [b"x"])
    (tmp_path / "notes.spool").write_bytes(b"")
    (tmp_path / ("cd" * 16)).write_bytes(b"")
    assert spool.jobs() == [JOB]
    assert spool.end(JOB) == file_of(tmp_path).stat().st_size
    assert spool.end(JobId("ef" * 16)) == 0
    spool.close()


def test_no_more_files_stay_open_than_the_limit_and_none_after_closing(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    spool = Spool(tmp_path)
    jobs = [JobId(f"{index:032x}") for index in range(OPEN_FILES_MAX + 20)]
    for job in jobs:
        spool.append(job, [job.encode()])
    assert len(os.listdir("/proc/self/fd")) <= before + OPEN_FILES_MAX
    assert [spool.read(job, 0) for job in jobs] == [job.encode() for job in jobs]
    assert len(os.listdir("/proc/self/fd")) <= before + OPEN_FILES_MAX
    spool.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_files_are_for_their_owner_only(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append(JOB, [b"x"])
    assert file_of(tmp_path).stat().st_mode & 0o777 == 0o600
    spool.close()
