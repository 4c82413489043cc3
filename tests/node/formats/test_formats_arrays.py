"""Readers of arrays: .npz, .npy, .safetensors, .jsonl, .parquet."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from peerinfer.errors import InputError
from peerinfer.tensors import Port
from peerinfer_node.formats import Inputs, open_inputs, source, tables
from peerinfer_node.formats.npy import open_npz
from peerinfer_node.formats.source import MemoryBudget, SourceFile

PORT = Port("x", "float32", (-1, 3))
VALUES = np.arange(60, dtype=np.float32).reshape(20, 3)


def npy(path: Path, x: np.ndarray[Any, Any]) -> None:
    np.save(path, x)


def npz(path: Path, x: np.ndarray[Any, Any]) -> None:
    np.savez(path, x=x)


def npz_compressed(path: Path, x: np.ndarray[Any, Any]) -> None:
    np.savez_compressed(path, x=x)


def tensors(path: Path, x: np.ndarray[Any, Any]) -> None:
    safetensors.numpy.save_file({"x": np.ascontiguousarray(x)}, path)


def jsonl(path: Path, x: np.ndarray[Any, Any]) -> None:
    path.write_text("".join(json.dumps({"x": row}) + "\n" for row in x.tolist()))


def parquet(path: Path, x: np.ndarray[Any, Any]) -> None:
    leaf = pa.from_numpy_dtype(x.dtype)
    for _ in x.shape[1:]:
        leaf = pa.list_(leaf)
    pq.write_table(pa.table({"x": pa.array(x.tolist(), leaf)}), path)


FORMATS: list[tuple[str, Callable[[Path, np.ndarray[Any, Any]], None]]] = [
    ("a.npy", npy),
    ("a.npz", npz),
    ("b.npz", npz_compressed),
    ("a.safetensors", tensors),
    ("a.jsonl", jsonl),
    ("a.parquet", parquet),
]
every_format = pytest.mark.parametrize(
    ("name", "write"), FORMATS, ids=["npy", "npz", "npz-deflate", "st", "jsonl", "pq"]
)


def opened(*paths: Path, ports: list[Port] | None = None) -> Inputs:
    return open_inputs([str(path) for path in paths], ports or [PORT])


def refusal(*paths: Path, ports: list[Port] | None = None) -> str:
    with pytest.raises(InputError) as caught:
        opened(*paths, ports=ports)
    line = str(caught.value)
    assert "\n" not in line
    return line


def line_of(act: Callable[[], object]) -> str | None:
    """The one line of the `InputError` that `act` raises, or None if it raises nothing."""
    try:
        act()
    except InputError as error:
        return str(error)
    return None


@every_format
def test_what_was_written_is_read_row_by_row(name: str, write: Any, tmp_path: Path) -> None:
    write(tmp_path / name, VALUES)
    inputs = opened(tmp_path / name)
    assert (inputs.items, inputs.warnings, inputs.item_names) == (20, (), None)
    assert inputs.binding.merge
    assert [(spec.name, spec.dtype, spec.shape) for spec in inputs.specs] == [("x", "float32", (20, 3))]
    (rows,) = inputs.rows(4, 9)
    assert rows.dtype == np.float32
    assert rows.flags.c_contiguous
    assert rows.flags.aligned
    np.testing.assert_array_equal(rows, VALUES[4:9])
    np.testing.assert_array_equal(inputs.rows(0, 20)[0], VALUES)


@every_format
def test_the_same_arrays_have_the_same_fingerprint_in_every_format(name: str, write: Any, tmp_path: Path) -> None:
    write(tmp_path / name, VALUES)
    np.save(tmp_path / "reference.npy", VALUES)
    found, reference = opened(tmp_path / name), opened(tmp_path / "reference.npy")
    assert found.fingerprint(2, 5) == reference.fingerprint(2, 5)
    assert len({found.fingerprint(2, 5), found.fingerprint(2, 6), found.fingerprint(3, 6)}) == 3


@every_format
def test_several_files_are_joined_in_order(name: str, write: Any, tmp_path: Path) -> None:
    for folder, rows in (("1", VALUES[:7]), ("2", VALUES[7:8]), ("3", VALUES[8:])):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / name, rows)
    inputs = opened(*(tmp_path / folder / name for folder in "123"))
    assert inputs.items == 20
    for start, stop in ((0, 20), (6, 9), (7, 8), (0, 7), (8, 20), (19, 20)):
        np.testing.assert_array_equal(inputs.rows(start, stop)[0], VALUES[start:stop])


@every_format
def test_files_read_in_pieces_give_the_same_rows(
    name: str, write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "SMALL_BYTES_MAX", 0)
    monkeypatch.setattr(tables, "_BATCH_ROWS_MAX", 3)
    write(tmp_path / name, VALUES)
    inputs = opened(tmp_path / name)
    np.testing.assert_array_equal(inputs.rows(11, 17)[0], VALUES[11:17])
    assert inputs.rows(11, 17)[0].flags.aligned


@every_format
def test_nan_and_infinity_run_with_a_warning(name: str, write: Any, tmp_path: Path) -> None:
    values = VALUES.copy()
    values[7, 1], values[7, 2], values[12, 0] = np.nan, np.inf, -np.inf
    write(tmp_path / name, values)
    inputs = opened(tmp_path / name)
    assert inputs.warnings == (
        "input 'x': 3 numbers are NaN or infinite, first in item 7 (counted from 0); they run as they are",
    )
    np.testing.assert_array_equal(inputs.rows(7, 8)[0], values[7:8])


@every_format
def test_a_file_cut_anywhere_is_read_whole_or_refused_in_one_line(name: str, write: Any, tmp_path: Path) -> None:
    write(tmp_path / name, VALUES)
    whole = (tmp_path / name).read_bytes()
    cut = tmp_path / f"cut{(tmp_path / name).suffix}"
    for length in sorted({*range(0, len(whole), max(1, len(whole) // 150)), *range(len(whole) - 60, len(whole))}):
        cut.write_bytes(whole[:length])
        line = line_of(lambda: opened(cut))
        if line is None:
            assert name == "a.jsonl"  # the only format whose prefix may be whole
            inputs = opened(cut)
            np.testing.assert_array_equal(inputs.rows(0, inputs.items)[0], VALUES[: inputs.items])
        else:
            assert "\n" not in line
            assert str(cut) in line


@every_format
def test_a_file_with_changed_bytes_is_read_or_refused_but_never_a_traceback(
    name: str, write: Any, tmp_path: Path
) -> None:
    write(tmp_path / name, VALUES)
    whole = (tmp_path / name).read_bytes()
    changed = tmp_path / f"changed{(tmp_path / name).suffix}"

    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.integers(0, len(whole) - 1), st.binary(min_size=1, max_size=8))
    def check(position: int, patch: bytes) -> None:
        changed.write_bytes(whole[:position] + patch + whole[position + len(patch) :])
        assert "\n" not in (line_of(lambda: opened(changed).rows(0, 1)) or "")

    check()


@every_format
def test_arbitrary_bytes_are_refused(name: str, write: Any, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(os.urandom(400))
    assert name in refusal(tmp_path / name)


@every_format
def test_an_empty_file_is_refused(name: str, write: Any, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    assert refusal(tmp_path / name) == f"{tmp_path / name} is empty; give a file with data"


@every_format
def test_no_items_are_refused(name: str, write: Any, tmp_path: Path) -> None:
    if name == "a.jsonl":
        (tmp_path / name).write_text("\n\n")
        assert refusal(tmp_path / name).endswith("a.jsonl holds no lines; write one JSON object per item")
        return
    write(tmp_path / name, VALUES[:0])
    assert "there are no items; give at least one along the first axis" in refusal(tmp_path / name)


@every_format
def test_a_wrong_dimension_names_the_axis(name: str, write: Any, tmp_path: Path) -> None:
    write(tmp_path / name, VALUES[:, :2])
    assert refusal(tmp_path / name) == (
        "input 'x': the model takes float32[?, 3], given float32[20, 2]; axis 1 must be 3"
    )


@every_format
def test_a_file_that_changes_under_the_job_is_noticed(
    name: str, write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name in ("b.npz", "a.jsonl", "a.parquet"):
        return  # held in memory as they were
    monkeypatch.setattr(source, "SMALL_BYTES_MAX", 0)
    write(tmp_path / name, VALUES)
    inputs = opened(tmp_path / name)
    os.truncate(tmp_path / name, 200)
    with pytest.raises(InputError, match="has changed since the job began"):
        inputs.rows(0, 20)


# --- paths ---------------------------------------------------------------------------------------------------------


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert refusal(tmp_path / "no.npz") == f"there is no file {tmp_path / 'no.npz'}; check the path"


def test_no_files_at_all() -> None:
    assert refusal() == "no input files are given; name at least one"


@pytest.mark.parametrize("name", ["x.csv", "x", "x.npz.bak"])
def test_an_unknown_extension_lists_the_known_ones(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"1,2")
    assert "give .npz, .npy, .safetensors, .parquet, .jsonl, images or a folder of images" in refusal(tmp_path / name)


def test_files_of_different_kinds_are_refused(tmp_path: Path) -> None:
    npy(tmp_path / "a.npy", VALUES)
    npz(tmp_path / "a.npz", VALUES)
    line = refusal(tmp_path / "a.npy", tmp_path / "a.npz")
    assert line == f"{tmp_path / 'a.npy'} and {tmp_path / 'a.npz'} are of different kinds; give files of one kind"


def test_files_that_do_not_agree_are_refused(tmp_path: Path) -> None:
    npz(tmp_path / "a.npz", VALUES)
    npz(tmp_path / "b.npz", VALUES[:, :2])
    np.savez(tmp_path / "c.npz", y=VALUES)
    assert "b.npz: array 'x' is float32[20, 2], but in" in refusal(tmp_path / "a.npz", tmp_path / "b.npz")
    assert "c.npz: array 'x' is not in all of the files" in refusal(tmp_path / "a.npz", tmp_path / "c.npz")


def test_shared_scalars_must_agree_between_files(tmp_path: Path) -> None:
    ports = [PORT, Port("k", "int64", ())]
    np.savez(tmp_path / "a.npz", x=VALUES, k=np.int64(4))
    np.savez_compressed(tmp_path / "b.npz", x=VALUES, k=np.int64(4))
    np.savez(tmp_path / "c.npz", x=VALUES, k=np.int64(5))
    inputs = opened(tmp_path / "a.npz", tmp_path / "b.npz", ports=ports)
    assert inputs.items == 40
    assert inputs.rows(30, 31)[1] == 4
    assert "the scalar 'k' differs" in refusal(tmp_path / "a.npz", tmp_path / "c.npz", ports=ports)


@pytest.mark.parametrize("name", ["a.npz", "a.png"])
def test_a_file_without_permission_says_so(name: str, tmp_path: Path) -> None:
    npz(tmp_path / "a.npz", VALUES)
    (tmp_path / "a.npz").rename(tmp_path / name)
    (tmp_path / name).chmod(0)
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        line = refusal(tmp_path / name)
    finally:
        if is_root:
            os.seteuid(0)
    assert line == f"{tmp_path / name} may not be read by this user; change its permissions or give a copy"


def test_a_named_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.npz")
    assert "is neither a file nor a folder" in refusal(tmp_path / "a.npz")


# --- npy and npz ---------------------------------------------------------------------------------------------------


def npy_claiming(shape: tuple[int, ...], data: bytes, descr: str = "<f4") -> bytes:
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def test_ten_gigabytes_claimed_by_a_header_are_refused_before_they_are_allocated(tmp_path: Path) -> None:
    claim = npy_claiming((2_500_000_000, 1), b"1234")
    (tmp_path / "a.npy").write_bytes(claim)
    assert "claims 10.0 GB of data and holds 4 bytes; it is truncated or damaged" in refusal(tmp_path / "a.npy")
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(tmp_path / "a.npz", "w", method) as archive:
            archive.writestr("x.npy", claim)
        assert "array 'x' claims 10.0 GB of data and holds 4 bytes" in refusal(tmp_path / "a.npz")


def test_ten_gigabytes_claimed_by_the_archive_are_refused(tmp_path: Path) -> None:
    member = npy_claiming((2_499_999_968, 1), b"1234")
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", member)
    raw = bytearray((tmp_path / "a.npz").read_bytes())
    entry = raw.rindex(b"PK\x01\x02")
    raw[entry + 24 : entry + 28] = struct.pack("<I", 4_000_000_000)
    (tmp_path / "a.npz").write_bytes(raw)
    assert "claims 4.0 GB, more than its" in refusal(tmp_path / "a.npz")


@pytest.mark.slow
def test_a_zip_bomb_is_refused_by_its_size_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = np.zeros((50_000_000, 3), np.float32)
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", npy_claiming(bomb.shape, bomb.data.cast("B")))
    del bomb
    assert (tmp_path / "a.npz").stat().st_size < 1_000_000

    class LittleMemory:
        available = 1_000_000_000

    monkeypatch.setattr(source.psutil, "virtual_memory", LittleMemory)
    line = refusal(tmp_path / "a.npz")
    assert "array 'x' would take 600.0 MB of memory and 500.0 MB are allowed" in line


def test_an_item_larger_than_memory_is_refused_even_if_the_file_is(tmp_path: Path) -> None:
    with open(tmp_path / "a.npy", "wb") as file:
        head = npy_claiming((1, 10**12), b"")
        file.write(head)
        file.truncate(len(head) + 4 * 10**12)  # sparse: takes no room
    assert "one item takes 4.0 TB and" in refusal(tmp_path / "a.npy", ports=[Port("x", "float32", (-1, -1))])


def test_a_header_without_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x02\x00" + struct.pack("<I", 4_000_000_000) + b"{" * 20000)
    assert "has a header of 4000000000 bytes" in refusal(tmp_path / "a.npy")


@pytest.mark.parametrize(
    "literal",
    [
        "{" * 3000,
        "(" * 5000,
        "{'descr': '<f4'}",
        "[]",
        "{'descr': '<f4', 'fortran_order': 0, 'shape': (True, -3)}",
        "'" * 7,
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 3), }",
        "9" * 9000,
        "{{}: 1}",
        "\x00",
    ],
)
def test_a_hostile_header_is_refused(literal: str, tmp_path: Path) -> None:
    head = literal.encode() + b"\n"
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + b"\0" * 64)
    assert "a.npy has a" in refusal(tmp_path / "a.npy")


def test_pickled_objects_are_never_read(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert refusal(tmp_path / "a.npy").endswith(
        "holds Python objects, which are not read; save numbers, or texts by dtype=str"
    )


def test_column_major_big_endian_and_odd_booleans_come_out_plain(tmp_path: Path) -> None:
    np.save(tmp_path / "f.npy", np.asfortranarray(VALUES))
    np.save(tmp_path / "b.npy", VALUES.astype(">f4"))
    (tmp_path / "t.npy").write_bytes(npy_claiming((4,), bytes([0, 1, 2, 255]), "|b1"))
    for name in ("f.npy", "b.npy"):
        (rows,) = opened(tmp_path / name).rows(3, 6)
        assert rows.tobytes() == VALUES[3:6].tobytes()
    (flags,) = opened(tmp_path / "t.npy", ports=[Port("x", "bool", (-1,))]).rows(0, 4)
    assert flags.tobytes() == bytes([0, 1, 1, 1])


def test_a_flipped_bit_in_a_stored_member_is_found(tmp_path: Path) -> None:
    values = np.arange(30_000, dtype=np.float32).reshape(-1, 3)
    npz(tmp_path / "a.npz", values)
    raw = bytearray((tmp_path / "a.npz").read_bytes())
    raw[raw.index(values[9_000].tobytes())] ^= 1
    (tmp_path / "a.npz").write_bytes(raw)
    assert "a.npz is damaged: a checksum is wrong" in refusal(tmp_path / "a.npz")


def test_members_that_are_no_arrays_or_come_twice_are_refused(tmp_path: Path) -> None:
    array = io.BytesIO()
    np.save(array, VALUES)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", array.getvalue())
        archive.writestr("readme.txt", "hello")
    assert "'readme.txt' is not an array" in refusal(tmp_path / "a.npz")
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr("x.npy", array.getvalue())
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("x.npy", array.getvalue())
    assert "array 'x' is there twice" in refusal(tmp_path / "b.npz")


def test_another_compression_and_too_many_members_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("x.npy", b"abc")
    assert "compressed in a way that NumPy does not use" in refusal(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", **{f"a{i}": VALUES[:1] for i in range(65)})
    assert "holds 65 arrays; peerinfer takes at most 64" in refusal(tmp_path / "b.npz")


def test_a_model_of_several_inputs_takes_them_by_name_in_its_order(tmp_path: Path) -> None:
    ports = [Port("b", "int64", (-1,)), Port("a", "float32", (-1, 3)), Port("rate", "int64", ())]
    np.savez(tmp_path / "a.npz", a=VALUES, b=np.arange(20), rate=np.int64(16000))
    inputs = opened(tmp_path / "a.npz", ports=ports)
    b, a, rate = inputs.rows(5, 7)
    assert (b.tolist(), a.tolist(), rate.tolist()) == ([5, 6], VALUES[5:7].tolist(), 16000)
    assert rate.shape == ()


def test_nothing_is_held_of_large_uncompressed_files(tmp_path: Path) -> None:
    npz(tmp_path / "a.npz", VALUES)
    column = open_npz(SourceFile(str(tmp_path / "a.npz")))["x"]
    column.prepare(MemoryBudget(free_bytes=0))
    np.testing.assert_array_equal(column.read(3, 4), VALUES[3:4])


# --- safetensors ---------------------------------------------------------------------------------------------------


def test_safetensors_headers_that_lie_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", 10_000_000_000) + b"{}")
    assert "its header claims 10.0 GB and the file holds 10 bytes" in refusal(path)
    header = b'{"x":{"dtype":"F32","shape":[2500000000],"data_offsets":[0,10000000000]}}'
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"1234")
    assert "is not a whole .safetensors file" in refusal(path)


def test_safetensors_lie_where_their_offsets_say_whatever_their_names(tmp_path: Path) -> None:
    arrays = {"b": np.arange(7, dtype=np.int8), "x": VALUES[:7], "a": np.arange(7, dtype=np.int64)}
    safetensors.numpy.save_file(arrays, tmp_path / "a.safetensors")
    ports = [Port("a", "int64", (-1,)), Port("b", "int8", (-1,)), PORT]
    for rows, name in zip(opened(tmp_path / "a.safetensors", ports=ports).rows(2, 5), "abx", strict=True):
        np.testing.assert_array_equal(rows, arrays[name][2:5])


def test_a_safetensors_dtype_that_numpy_lacks_is_named(tmp_path: Path) -> None:
    header = b'{"x":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]}}'
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 12)
    assert refusal(tmp_path / "a.safetensors") == (
        "input 'x': the model takes float32[?, 3], given bfloat16[2, 3]; give float32"
    )


# --- jsonl ---------------------------------------------------------------------------------------------------------

LINES = [
    ('{"x": [1, 2, 3]}\n{"x": [1, 2]}', "line 2, 'x': the shape is [2] and was [3] before"),
    ('{"x": [1, [2], 3]}', "line 1, 'x': the lists are ragged or not numbers"),
    ('{"x": [1, 2, 3]}\n\n{"x": [1, 2, "a"]}', "line 3, 'x': holds something that is not a number"),
    ('{"x": [1, 2, null]}', "line 1, 'x': holds something that is not a number"),
    ('{"x": [true, false, true]}', "line 1, 'x': holds true and false; the model takes float32"),
    ('{"x": [1, 2, 1e300]}', "line 1, 'x': holds numbers beyond float32"),
    ('{"x": [1, 2, 3]', "line 1: not JSON"),
    ('{"x": [1, 2, 3]}\n{"y": [1, 2, 3]}', "line 2: 'x' is not in every line"),
    ("[1, 2, 3]", "line 1: not a JSON object"),
    ('{"y": 1}', "missing inputs: 'x'"),
    ("[" * 100_000, "line 1: not JSON"),
    ('{"x": ' + "[" * 200 + "]" * 200 + "}", "line 1, 'x': "),
    ("\xff", "line 1: not JSON"),
]


@pytest.mark.parametrize(("text", "expected"), LINES, ids=[expected for _, expected in LINES])
def test_a_bad_line_is_named(text: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(text.encode("latin-1"))
    assert expected in refusal(tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("dtype", "text", "expected"),
    [
        ("int64", "[1.5]", "holds fractions; the model takes int64"),
        ("uint8", "[256]", "holds numbers beyond uint8 (0 to 255)"),
        ("uint8", "[-1]", "holds numbers beyond uint8 (0 to 255)"),
        ("int64", f"[{2**70}]", "not a number (or too large)"),
        ("bool", "[1]", "holds integers; the model takes bool"),
        ("float16", "[70000]", "holds numbers beyond float16"),
        ("int64", "[]", "axis 1 has length 0"),
    ],
)
def test_numbers_are_not_bent_to_fit(dtype: str, text: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(f'{{"x": {text}}}\n')
    assert expected in refusal(tmp_path / "a.jsonl", ports=[Port("x", dtype, (-1, -1))])


def test_jsonl_numbers_take_the_models_dtype(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        '\ufeff{"x": [1, 2.5, NaN], "i": 3, "t": true}\r\n\n{"x": [1, 2, 3], "i": 4, "t": false}'
    )
    ports = [PORT, Port("i", "uint64", (-1,)), Port("t", "bool", (-1,))]
    x, i, t = opened(tmp_path / "a.jsonl", ports=ports).rows(0, 2)
    np.testing.assert_array_equal(x, np.array([[1, 2.5, np.nan], [1, 2, 3]], np.float32))
    assert (i.dtype, i.tolist(), t.tolist()) == (np.uint64, [3, 4], [True, False])


def test_an_endless_line_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "JSONL_LINE_BYTES_MAX", 1 << 20)
    (tmp_path / "a.jsonl").write_bytes(b" " * (2 << 20))
    assert "line 1: longer than 1 MiB" in refusal(tmp_path / "a.jsonl")


def test_tables_are_held_within_the_memory_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class NoMemory:
        available = 400

    jsonl(tmp_path / "a.jsonl", VALUES)
    parquet(tmp_path / "a.parquet", VALUES)
    monkeypatch.setattr(source.psutil, "virtual_memory", NoMemory)
    for name in ("a.jsonl", "a.parquet"):
        assert "and 200 bytes are allowed (half of what is free)" in refusal(tmp_path / name)


# --- parquet -------------------------------------------------------------------------------------------------------


def table(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path / "a.parquet", row_group_size=4)
    return path / "a.parquet"


def test_parquet_lists_of_every_kind_become_axes(tmp_path: Path) -> None:
    values = np.arange(48, dtype=np.int32).reshape(6, 2, 4)
    kinds = [
        pa.list_(pa.list_(pa.int32())),
        pa.large_list(pa.list_(pa.int32(), 4)),
        pa.list_(pa.large_list(pa.int32()), 2),
    ]
    for kind in kinds:
        path = table(tmp_path, x=pa.array(values.tolist(), kind))
        inputs = opened(path, ports=[Port("x", "int32", (-1, 2, 4))])
        np.testing.assert_array_equal(inputs.rows(0, 6)[0], values)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "float16", "float64"])
def test_parquet_columns_keep_their_dtype(dtype: str, tmp_path: Path) -> None:
    values = (np.arange(10) % 2).astype(dtype)
    path = table(tmp_path, x=pa.array(values))
    (rows,) = opened(path, ports=[Port("x", dtype, (-1,))]).rows(0, 10)
    np.testing.assert_array_equal(rows, values)
    assert rows.dtype == dtype


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([[1.0, 2, 3]] * 5 + [[1.0, 2]], "column 'x' changes its shape in row 5 (counted from 0)"),
        ([[1.0, 2]] + [[1.0, 2, 3]] * 5, "column 'x' changes its shape in row 1"),
        ([[1.0, 2, 3]] * 5 + [[1.0, None, 3]], "column 'x' has a null in row 5 (counted from 0)"),
        ([[1.0, 2, 3]] * 5 + [None], "column 'x' has a null in row 5 (counted from 0)"),
        ([["a"]], "the model takes float32[?, 3], given string[1, 1]; give float32"),
        ([{"a": 1}], "column 'x' holds 'struct<a: int64>'; give numbers"),
    ],
)
def test_parquet_rows_that_are_no_array_are_named(rows: list[Any], expected: str, tmp_path: Path) -> None:
    assert expected in refusal(table(tmp_path, x=pa.array(rows)))


def test_parquet_batches_that_differ_from_each_other_are_ragged_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "_BATCH_ROWS_MAX", 4)
    path = table(tmp_path, x=pa.array([[1.0, 2, 3]] * 4 + [[1.0, 2]] * 4))
    assert "column 'x' changes its shape in row 4 (counted from 0)" in refusal(path)


def test_parquet_columns_that_the_model_does_not_take_are_listed(tmp_path: Path) -> None:
    assert refusal(table(tmp_path, x=[[1.0, 2.0, 3.0]], label=["a"])) == (
        "extra inputs: 'label'; the model takes 'x' (float32[?, 3]); leave the others out"
    )


def test_parquet_doubles_for_a_float_model_name_the_fix(tmp_path: Path) -> None:
    assert refusal(table(tmp_path, x=[[1.0, 2.0, 3.0]])) == (
        "input 'x': the model takes float32[?, 3], given float64[1, 3]; convert with astype('float32')"
    )


NO_ABORT = """
import sys
from peerinfer.errors import InputError
from peerinfer.tensors import Port
from peerinfer_node.formats import open_inputs

path, ports = sys.argv[1], [Port("x", "float32", (-1, 3))]
whole = open(path, "rb").read()
footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
refused = 0
for position in range(footer, len(whole)):
    for value in (0, 1, 0x15, 0x7F, 0xFF, whole[position] ^ 1):
        with open(path, "wb") as file:
            file.write(whole[:position] + bytes([value]) + whole[position + 1 :])
        try:
            open_inputs([path], ports)
        except InputError:
            refused += 1
print(refused)
"""


@pytest.mark.slow
def test_no_byte_of_a_parquet_footer_ends_the_process(tmp_path: Path) -> None:
    """Arrow ends the process (std::terminate) if it is asked for some columns' metadata; we must never ask."""
    parquet(tmp_path / "a.parquet", VALUES)
    done = subprocess.run(
        [sys.executable, "-c", NO_ABORT, str(tmp_path / "a.parquet")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-500:]
    assert int(done.stdout) > 500


def test_file_names_cannot_write_on_the_terminal(tmp_path: Path) -> None:
    hostile = tmp_path / "a\n\x1b[31m.npy"
    hostile.write_bytes(b"no array")
    for path in (hostile, tmp_path / "b\n\x1b.npy", tmp_path / "c\r.csv"):
        assert refusal(path).isprintable()
