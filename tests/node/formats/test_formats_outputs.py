"""Writers of outputs: every kind of file, in any order of arrival, and what is left when the disk gives up."""

from __future__ import annotations

import errno
import json
import math
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from peerinfer.errors import InputError, StateUnusable, UsageError
from peerinfer.tensors import Port
from peerinfer_node.formats import check_writable, open_inputs, open_writer, spool, write_provenance
from peerinfer_node.formats.outputs import NAME_BYTES_MAX, OutputWriter

SCORES = Port("scores", "float32", (-1, 4))
LABEL = Port("label", "int64", (-1,))
KINDS = ["out.npz", "out.parquet", "out.jsonl", "out"]
every_kind = pytest.mark.parametrize("name", KINDS)

ITEMS = 23
S = np.arange(ITEMS * 4, dtype=np.float32).reshape(ITEMS, 4) / 7
L = np.arange(ITEMS, dtype=np.int64) * 3
BLOCKS = [(10, 5), (0, 3), (20, 3), (3, 7), (15, 5)]


def writer(path: Path | str, outputs: list[Port] | None = None, items: int = ITEMS, **names: Any) -> OutputWriter:
    return open_writer(str(path), outputs or [SCORES, LABEL], items, item_names=names.get("item_names"))


def add(out: OutputWriter, first: int, count: int) -> None:
    out.add(first, count, {"label": L[first : first + count], "scores": S[first : first + count]})


def read(path: Path) -> list[tuple[list[float], int] | None]:
    """The items of any kind of output; None where one failed."""
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            assert list(arrays)[:2] == ["scores", "label"]
            failed = arrays["__failed__"] if "__failed__" in arrays else np.zeros(len(arrays["label"]), bool)
            rows = zip(failed, arrays["scores"], arrays["label"], strict=True)
            return [None if bad else (scores.tolist(), int(label)) for bad, scores, label in rows]
    if path.suffix == ".parquet":
        return [
            None if row["scores"] is None else (row["scores"], row["label"]) for row in pq.read_table(path).to_pylist()
        ]
    if path.suffix == ".jsonl":
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert [line["index"] for line in lines] == list(range(len(lines)))
        return [None if "error" in line else (line["scores"], line["label"]) for line in lines]
    found: list[tuple[list[float], int] | None] = []
    for index in range(ITEMS):
        try:
            with np.load(path / f"{index:06d}.npz") as arrays:
                found.append((arrays["scores"].tolist(), int(arrays["label"])))
        except FileNotFoundError:
            found.append(None)
    return found


EXPECTED = list(zip(S.tolist(), L.tolist(), strict=True))


@every_kind
def test_blocks_in_any_order_come_out_in_the_order_of_the_items(name: str, tmp_path: Path) -> None:
    out = writer(tmp_path / name)
    for first, count in BLOCKS:
        add(out, first, count)
    assert os.listdir(tmp_path) == []  # nothing can be seen before it is whole
    out.finish([])
    assert read(tmp_path / name) == EXPECTED
    assert out.warnings == ()
    assert os.listdir(tmp_path) == [name]


@every_kind
def test_outputs_larger_than_memory_go_through_the_disk(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "SPOOL_MEMORY_BYTES_MAX", 50)
    monkeypatch.setattr(spool, "PIECE_BYTES", 40)
    out = writer(tmp_path / name)
    for first, count in BLOCKS:
        add(out, first, count)
    out.finish([])
    assert read(tmp_path / name) == EXPECTED


@every_kind
def test_failed_items_and_items_that_never_came_leave_their_mark(name: str, tmp_path: Path) -> None:
    out = writer(tmp_path / name)
    for first, count in BLOCKS[:-1]:
        add(out, first, count)
    out.finish([0, 11])
    expected = [None if index in (0, 11) or 15 <= index < 20 else row for index, row in enumerate(EXPECTED)]
    assert read(tmp_path / name) == expected


@every_kind
def test_a_job_whose_every_item_failed_has_a_file_too(name: str, tmp_path: Path) -> None:
    out = writer(tmp_path / name)
    out.finish(range(ITEMS))
    assert read(tmp_path / name) == [None] * ITEMS


def test_failed_rows_of_npz_are_nan_and_zero(tmp_path: Path) -> None:
    out = writer(tmp_path / "out.npz", [SCORES, LABEL, Port("good", "bool", (-1,))], 3)
    out.add(0, 1, {"scores": S[:1], "label": L[1:2], "good": np.array([True])})
    out.finish([1, 2])
    with np.load(tmp_path / "out.npz") as arrays:
        assert np.isnan(arrays["scores"][1:]).all()
        assert arrays["label"].tolist() == [3, 0, 0]
        assert arrays["good"].tolist() == [True, False, False]
        assert arrays["__failed__"].tolist() == [False, True, True]


def test_npz_has_no_failed_array_without_failures_and_is_the_same_bytes_every_time(tmp_path: Path) -> None:
    for name, blocks in (("a.npz", BLOCKS), ("b.npz", [(0, ITEMS)])):
        out = writer(tmp_path / name)
        for first, count in blocks:
            add(out, first, count)
        out.finish([])
    with np.load(tmp_path / "a.npz") as arrays:
        assert list(arrays) == ["scores", "label"]
        assert (arrays["scores"].dtype, arrays["label"].dtype) == (np.float32, np.int64)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_of_an_item_that_comes_twice_the_later_counts(tmp_path: Path) -> None:
    out = writer(tmp_path / "out.npz", [LABEL], 4)
    out.add(0, 4, {"label": np.array([1, 2, 3, 4])})
    out.add(1, 2, {"label": np.array([20, 30])})
    out.finish([])
    assert np.load(tmp_path / "out.npz")["label"].tolist() == [1, 20, 30, 4]


BOXES = Port("boxes", "float32", (-1, -1, 2))
RAGGED = [np.arange(count * 2, dtype=np.float32).reshape(count, 2) for count in (2, 0, 3, 1)]


def ragged(path: Path) -> OutputWriter:
    out = writer(path, [BOXES], 5)
    for index in (3, 0, 2, 1):
        out.add(index, 1, {"boxes": RAGGED[index][None]})
    out.finish([4])
    return out


def test_ragged_npz_keeps_values_offsets_and_shapes(tmp_path: Path) -> None:
    out = ragged(tmp_path / "out.npz")
    assert out.warnings == (
        "output 'boxes' differs in shape between items: it is written as boxes.values, boxes.offsets and boxes.shapes",
    )
    with np.load(tmp_path / "out.npz") as arrays:
        values, offsets, shapes = arrays["boxes.values"], arrays["boxes.offsets"], arrays["boxes.shapes"]
        assert arrays["__failed__"].tolist() == [False] * 4 + [True]
    assert (values.dtype, offsets.tolist(), shapes.tolist()) == (
        np.float32,
        [0, 4, 4, 10, 12, 12],
        [[2, 2], [0, 2], [3, 2], [1, 2], [0, 0]],
    )
    for index, expected in enumerate(RAGGED):
        got = values[offsets[index] : offsets[index + 1]].reshape(shapes[index])
        np.testing.assert_array_equal(got, expected)


def test_ragged_outputs_are_natural_elsewhere(tmp_path: Path) -> None:
    expected = [array.tolist() for array in RAGGED]
    for name in KINDS[1:]:
        assert "differs in shape" not in "".join(ragged(tmp_path / name).warnings)
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line.get("boxes") for line in lines] == [*expected, None]
    assert pq.read_table(tmp_path / "out.parquet")["boxes"].to_pylist() == [*expected, None]
    for index, array in enumerate(RAGGED):
        np.testing.assert_array_equal(np.load(tmp_path / "out" / f"{index:06d}.npz")["boxes"], array)
    assert not (tmp_path / "out" / "000004.npz").exists()


def test_an_output_whose_rank_differs_is_too_much_for_parquet_only(tmp_path: Path) -> None:
    for name in ("out.npz", "out.parquet"):
        out = writer(tmp_path / name, [BOXES], 2)
        out.add(0, 1, {"boxes": np.ones((1, 2, 2), np.float32)})
        out.add(1, 1, {"boxes": np.ones((1, 3), np.float32)})
        if name == "out.npz":
            out.finish([])
            assert np.load(tmp_path / name)["boxes.shapes"].tolist() == [[2, 2], [3, -1]]
        else:
            with pytest.raises(InputError, match=r"differs in its number of axes between items; write \.npz"):
                out.finish([])
    assert os.listdir(tmp_path) == ["out.npz"]


def test_nan_and_infinity_become_null_in_jsonl_with_a_warning(tmp_path: Path) -> None:
    out = writer(tmp_path / "out.jsonl", [SCORES, Port("loss", "float32", (-1,))], 2)
    scores = np.array([[1, np.nan, np.inf, 2], [3, 4, 5, 6]], np.float32)
    out.add(0, 2, {"scores": scores, "loss": np.array([np.nan, 0.5], np.float32)})
    out.finish([])
    assert [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()] == [
        {"index": 0, "scores": [1.0, None, None, 2.0], "loss": None},
        {"index": 1, "scores": [3.0, 4.0, 5.0, 6.0], "loss": 0.5},
    ]
    assert out.warnings == (
        "output 'scores': 2 numbers that are NaN or infinite were written as null",
        "output 'loss': 1 numbers that are NaN or infinite were written as null",
    )


@pytest.mark.parametrize(
    "dtype", ["bool", "uint8", "int8", "uint16", "int16", "float16", "uint32", "int32", "uint64", "int64", "float64"]
)
def test_every_dtype_survives_every_kind_of_file(dtype: str, tmp_path: Path) -> None:
    values = np.array([[0, 1], [1, 0], [1, 1]]).astype(dtype)
    for name in KINDS[:3]:
        out = writer(tmp_path / name, [Port("x", dtype, (-1, 2))], 3)
        out.add(0, 3, {"x": values})
        out.finish([])
        if name == "out.jsonl":
            text = "".join(json.dumps({"x": json.loads(line)["x"]}) + "\n" for line in (tmp_path / name).open())
            (tmp_path / name).write_text(text)
        inputs = open_inputs([str(tmp_path / name)], [Port("x", dtype, (-1, 2))])
        np.testing.assert_array_equal(inputs.rows(0, 3)[0], values)


def test_parquet_keeps_axes_of_every_depth(tmp_path: Path) -> None:
    values = np.arange(2 * 3 * 4 * 5, dtype=np.int32).reshape(2, 3, 4, 5)
    out = writer(tmp_path / "out.parquet", [Port("x", "int32", (-1, 3, 4, 5))], 2)
    out.add(0, 2, {"x": values})
    out.finish([])
    assert pq.read_table(tmp_path / "out.parquet")["x"].to_pylist() == values.tolist()


def test_files_in_a_folder_are_named_after_the_items(tmp_path: Path) -> None:
    names = ["cat.jpg", "cat.png", "../../etc/passwd", ".hidden.png", "a\0b.png", "CAT.gif", "x" * 300 + ".png", ".png"]
    out = writer(tmp_path / "out/", [LABEL], len(names), item_names=names)
    out.add(0, len(names), {"label": np.arange(len(names))})
    out.finish([])
    found = {path.name: int(np.load(path)["label"]) for path in (tmp_path / "out").iterdir()}
    assert found == {
        "cat.npz": 0,
        "cat-000001.npz": 1,
        "passwd.npz": 2,
        "hidden.npz": 3,
        "ab.npz": 4,
        "CAT-000005.npz": 5,
        "x" * 200 + ".npz": 6,
        "png.npz": 7,
    }


def test_rows_that_are_not_what_was_promised_are_a_mistake_of_the_caller(tmp_path: Path) -> None:
    out = writer(tmp_path / "out.npz", [LABEL], 4)
    for first, items, rows in [
        (0, 2, {"label": np.zeros(3, np.int64)}),
        (0, 2, {"label": np.zeros(2, np.int32)}),
        (0, 2, {"other": np.zeros(2, np.int64)}),
        (3, 2, {"label": np.zeros(2, np.int64)}),
    ]:
        with pytest.raises(ValueError):  # noqa: PT011
            out.add(first, items, rows)
    out.abort()
    assert os.listdir(tmp_path) == []


# --- places --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["out.csv", "out.npy", "out.v2"])
def test_an_unknown_extension_is_wrong_usage(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"choose \.npz, \.parquet, \.jsonl, or a folder \(ending in /\)"):
        check_writable(str(tmp_path / name))


def test_a_folder_may_have_a_dot_in_its_name_if_it_ends_in_a_slash(tmp_path: Path) -> None:
    check_writable(f"{tmp_path}/out.v2/")
    assert os.listdir(tmp_path) == []


@every_kind
def test_a_missing_folder_is_said_before_anything_is_computed(name: str, tmp_path: Path) -> None:
    with pytest.raises(StateUnusable, match=r"there is no folder .*/no; create it first"):
        check_writable(str(tmp_path / "no" / name))


@every_kind
def test_a_place_without_permission_is_said_before_anything_is_computed(name: str, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(0o555)
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        with pytest.raises(StateUnusable, match="may not be written by this user; write elsewhere"):
            check_writable(str(locked / name))
    finally:
        if is_root:
            os.seteuid(0)
        locked.chmod(0o755)


def test_a_folder_for_a_file_and_a_file_for_a_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "out.npz").mkdir()
    (tmp_path / "out").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    for name, expected in [("out.npz", "is a folder"), ("out", "is a file"), ("full", "is not empty; name a new one")]:
        with pytest.raises(UsageError, match=expected):
            check_writable(str(tmp_path / name))
    assert (tmp_path / "out").read_text() == "mine"
    with pytest.raises(UsageError, match="the output has no name"):
        check_writable("/")


def test_a_folder_that_cannot_be_replaced_is_refused_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "disk").mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: str(path).startswith(str(tmp_path / "disk")))
    with pytest.raises(UsageError, match="is where a disk is mounted; name a new one in it"):
        check_writable(f"{tmp_path}/disk/")
    check_writable(f"{tmp_path}/disk/out.npz")


def test_a_name_that_leaves_no_room_for_the_provenance_beside_it_is_refused(tmp_path: Path) -> None:
    longest = "a" * (NAME_BYTES_MAX - len(".npz"))
    check_writable(f"{tmp_path}/{longest}.npz")
    write_provenance(f"{tmp_path}/{longest}.npz", {})
    for name in (f"{longest}a.npz", f"{longest[:-1]}é.npz", f"{longest}.folder/"):
        with pytest.raises(UsageError, match="the output's name is too long: give at most 239 bytes"):
            check_writable(f"{tmp_path}/{name}")


def test_an_empty_folder_is_filled_and_an_older_file_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out.npz").write_text("old")
    for name in ("out", "out.npz"):
        out = writer(tmp_path / name)
        add(out, 0, ITEMS)
        assert (tmp_path / "out.npz").read_bytes()[:3] == b"old"
        out.finish([])
        assert read(tmp_path / name) == EXPECTED


def test_output_names_that_the_file_needs_itself_are_refused(tmp_path: Path) -> None:
    for name, output in (("a.npz", "__failed__"), ("a.jsonl", "index"), ("a.jsonl", "error")):
        with pytest.raises(InputError, match=r"a name of .*'s own; write \.parquet"):
            writer(tmp_path / name, [Port(output, "float32", (-1,))])
    with pytest.raises(InputError, match="output 'label': the model gives bfloat16"):
        writer(tmp_path / "a.npz", [Port("label", "bfloat16", (-1,))])


# --- a disk that gives up ------------------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_an_error_while_finishing_leaves_nothing_and_keeps_the_older_file(
    name: str, call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name != "out":
        (tmp_path / name).write_text("old")
    before = os.listdir(tmp_path)
    out = writer(tmp_path / name)
    add(out, 0, ITEMS)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, call, full)
        with pytest.raises(StateUnusable, match=r"the disk is full: .* needs about .* is free; nothing was left there"):
            out.finish([])
    assert os.listdir(tmp_path) == before
    assert name == "out" or (tmp_path / name).read_text() == "old"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 1 MB, where the tests may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("may not mount a file system here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@every_kind
@pytest.mark.parametrize("spooled", [True, False], ids=["spooled", "in-memory"])
def test_a_full_disk_leaves_nothing_and_says_how_much_is_needed(
    name: str, spooled: bool, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if spooled:
        monkeypatch.setattr(spool, "SPOOL_MEMORY_BYTES_MAX", 1000)
    items = 700_000
    values = np.random.default_rng(1).integers(0, 2**62, items)
    out = writer(small_disk / name, [LABEL], items)

    def fill() -> None:
        for first in range(0, items, 70_000):
            out.add(first, 70_000, {"label": values[first : first + 70_000]})
        out.finish([])

    with pytest.raises(StateUnusable) as caught:
        fill()
    needed = "2.9 GB" if name == "out" else "11.2 MB"  # 700,000 files take a block each
    assert f"the disk is full: {small_disk / name} needs about {needed} and 1.0 MB is free" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert os.listdir(small_disk) == []
    assert os.statvfs(small_disk).f_bfree == os.statvfs(small_disk).f_blocks


@every_kind
def test_an_abandoned_output_leaves_nothing(name: str, tmp_path: Path) -> None:
    out = writer(tmp_path / name)
    add(out, 0, 5)
    out.abort()
    out.abort()
    assert os.listdir(tmp_path) == []


# --- provenance ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["out.npz", "out", "out/"])
def test_provenance_lies_beside_the_output(name: str, tmp_path: Path) -> None:
    document = {"model": "é", "peers": [1, 2], "ratio": 0.5}
    written = write_provenance(f"{tmp_path}/{name}", document)
    assert written == f"{tmp_path}/{name.rstrip('/')}.provenance.json"
    assert json.loads(Path(written).read_text()) == document
    assert os.listdir(tmp_path) == [os.path.basename(written)]


def test_provenance_on_a_full_disk_leaves_the_older_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_provenance(str(tmp_path / "out.npz"), {"run": 1})

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(StateUnusable, match="the disk is full"):
            write_provenance(str(tmp_path / "out.npz"), {"run": 2})
    assert json.loads((tmp_path / "out.npz.provenance.json").read_text()) == {"run": 1}
    assert len(os.listdir(tmp_path)) == 1


def test_new_files_have_the_permissions_that_the_user_gives_new_files(tmp_path: Path) -> None:
    (tmp_path / "reference").touch()
    out = writer(tmp_path / "out.npz")
    out.finish([])
    assert (tmp_path / "out.npz").stat().st_mode == (tmp_path / "reference").stat().st_mode
    assert math.isnan(np.load(tmp_path / "out.npz")["scores"][0, 0])
