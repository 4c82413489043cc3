"""Strings in files, both ways: every format says the same, and none of them is believed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from peerinfer.errors import InputError
from peerinfer.strings import packed, unpacked
from peerinfer.tensors import Port
from peerinfer_node.formats import Inputs, open_inputs, open_writer

PORT = Port("t", "string", (-1, 2))
TEXTS = [["a", "naïve"], ["", "x" * 50], ["two\nlines", "日本"], ["d", "e"]]


def npz(path: Path, texts: Any) -> None:
    np.savez(path, t=np.array(texts))


def npz_compressed(path: Path, texts: Any) -> None:
    np.savez_compressed(path, t=np.array(texts))


def npz_of_bytes(path: Path, texts: Any) -> None:
    np.savez(path, t=np.char.encode(np.array(texts), "utf-8"))


def npy_big_endian_by_columns(path: Path, texts: Any) -> None:
    np.save(path, np.asfortranarray(np.array(texts).astype(">U50")))


def jsonl(path: Path, texts: Any) -> None:
    path.write_text("".join(json.dumps({"t": row}) + "\n" for row in texts))


def parquet(path: Path, texts: Any) -> None:
    pq.write_table(pa.table({"t": pa.array(texts, pa.list_(pa.string()))}), path)


def parquet_large(path: Path, texts: Any) -> None:
    pq.write_table(pa.table({"t": pa.array(texts, pa.list_(pa.large_string()))}), path)


FORMATS = [
    ("a.npz", npz),
    ("b.npz", npz_compressed),
    ("c.npz", npz_of_bytes),
    ("a.npy", npy_big_endian_by_columns),
    ("a.jsonl", jsonl),
    ("a.parquet", parquet),
    ("b.parquet", parquet_large),
]
every_format = pytest.mark.parametrize(("name", "write"), FORMATS, ids=[write.__name__ for _, write in FORMATS])


def opened(*paths: Path, port: Port = PORT) -> Inputs:
    return open_inputs([str(path) for path in paths], [port])


def refusal(path: Path, port: Port = PORT) -> str:
    def read() -> None:
        inputs = opened(path, port=port)
        inputs.rows(0, inputs.items)

    with pytest.raises(InputError) as caught:
        read()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@every_format
def test_every_format_gives_the_same_strings_and_the_same_fingerprint(
    name: str, write: Callable[[Path, Any], None], tmp_path: Path
) -> None:
    write(tmp_path / name, TEXTS)
    jsonl(tmp_path / "reference.jsonl", TEXTS)
    inputs = opened(tmp_path / name)
    assert unpacked(inputs.rows(0, 4)[0]).tolist() == TEXTS
    assert unpacked(inputs.rows(2, 3)[0]).tolist() == TEXTS[2:3]
    assert inputs.fingerprint(1, 3) == opened(tmp_path / "reference.jsonl").fingerprint(1, 3)
    assert inputs.fingerprint(1, 3) != inputs.fingerprint(0, 2)


def test_files_with_strings_of_other_lengths_are_joined(tmp_path: Path) -> None:
    npz(tmp_path / "a.npz", [["a", "b"]])
    npz(tmp_path / "b.npz", [["c" * 90, "d"], ["e", ""]])
    inputs = opened(tmp_path / "a.npz", tmp_path / "b.npz")
    assert unpacked(inputs.rows(0, 3)[0]).tolist() == [["a", "b"], ["c" * 90, "d"], ["e", ""]]


def test_two_texts_are_not_one_even_if_they_read_alike_in_a_row(tmp_path: Path) -> None:
    jsonl(tmp_path / "a.jsonl", [["ab", "c"]])
    jsonl(tmp_path / "b.jsonl", [["a", "bc"]])
    assert opened(tmp_path / "a.jsonl").fingerprint(0, 1) != opened(tmp_path / "b.jsonl").fingerprint(0, 1)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ('{"t": ["a", 1]}', "line 1, 't': holds something that is not a text"),
        ('{"t": ["a", ["b"]]}', "not a text, or ragged lists"),
        ('{"t": ["a", null]}', "not a text"),
        ('{"t": ["a", "\\ud800"]}', "not UTF-8"),
        ('{"t": ["a", "b"]}\n{"t": ["a"]}', "line 2, 't': the shape is [1] and was [2] before"),
        ('{"t": ["a", "' + "x" * (1 << 20) + '"]}', "peerinfer carries at most 1048572"),
    ],
)
def test_lines_that_hold_no_strings_are_refused(lines: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(lines)
    assert expected in refusal(tmp_path / "a.jsonl")


def test_arrays_that_hold_no_strings_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    for code in (0xD800, 0x110000, 0x7FFFFFFF, 0xFFFFFFFF):
        np.save(path, np.array([[code, 65]], "<u4").view("<U1"))
        assert str(path) in refusal(path)
    np.save(path, np.array([[b"\xff", b"a"]]))
    assert "not UTF-8" in refusal(path)
    np.save(path, np.zeros((1, 2), "S2000000"))
    assert "has room for a string of 2000000 bytes; peerinfer carries at most 1048572" in refusal(path)
    np.save(path, np.zeros((1, 2), "V8"))
    assert "the model takes string[?, 2], given" in refusal(path)
    np.save(path, np.zeros((1, 2)))
    assert "the model takes string[?, 2], given float64[1, 2]; give string" in refusal(path)
    np.save(path, np.array([["a", "b"]]))
    assert "given string[1, 2]; give float32" in refusal(path, Port("t", "float32", (-1, 2)))
    assert "two" not in refusal(path, Port("t", "string", (-1, 3)))


def test_nulls_of_a_table_are_named(tmp_path: Path) -> None:
    parquet(tmp_path / "a.parquet", [["a", "b"], ["c", None]])
    assert "has a null in row 1" in refusal(tmp_path / "a.parquet")


OUTPUTS = [Port("label", "string", (-1,)), Port("words", "string", (-1, 2))]


def written(path: Path, **options: Any) -> tuple[str, ...]:
    out = open_writer(str(path), OUTPUTS, 4, item_names=None)
    words = np.array(TEXTS, object)
    labels = np.array(["short", "a" * 30, "ç", options.get("last", "")], object)
    out.add(2, 2, {"label": packed(labels[2:]), "words": packed(words[2:])})
    out.add(0, 2, {"label": packed(labels[:2]), "words": packed(words[:2])})
    out.finish(options.get("failed", []))
    return out.warnings


def test_strings_are_written_to_every_kind_of_file(tmp_path: Path) -> None:
    labels = ["short", "a" * 30, "ç", ""]
    written(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as found:
        assert found["label"].tolist() == labels
        assert found["words"].tolist() == TEXTS
        assert found["label"].dtype == np.dtype("<U30")
    written(tmp_path / "a.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [line["label"] for line in lines] == labels
    assert [line["words"] for line in lines] == TEXTS
    written(tmp_path / "a.parquet")
    assert pq.read_table(tmp_path / "a.parquet").to_pydict() == {"label": labels, "words": TEXTS}
    written(tmp_path / "folder")
    files = sorted((tmp_path / "folder").iterdir())
    with np.load(files[1]) as found:
        assert str(found["label"]) == "a" * 30
        assert found["words"].tolist() == TEXTS[1]


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    written(tmp_path / "a.parquet")
    inputs = open_inputs([str(tmp_path / "a.parquet")], OUTPUTS)
    assert unpacked(inputs.rows(0, 4)[1]).tolist() == TEXTS


def test_failed_items_have_empty_strings_and_are_named(tmp_path: Path) -> None:
    written(tmp_path / "a.npz", failed=[1])
    with np.load(tmp_path / "a.npz") as found:
        assert found["label"].tolist() == ["short", "", "ç", ""]
        assert found["__failed__"].tolist() == [False, True, False, False]
    written(tmp_path / "a.parquet", failed=[1])
    assert pq.read_table(tmp_path / "a.parquet").to_pydict()["label"] == ["short", None, "ç", ""]


def test_zeros_at_the_end_are_kept_by_every_format(tmp_path: Path) -> None:
    (warning,) = written(tmp_path / "a.npz", last="end\0")
    assert warning == (
        "output 'label': 1 string ends in zeros, which NumPy's strings lose; how long they are stands in label.lengths"
    )
    with np.load(tmp_path / "a.npz") as found:
        assert "words.lengths" not in found
        kept = [str(text).ljust(size, "\0") for text, size in zip(found["label"], found["label.lengths"], strict=True)]
    assert kept[3] == "end\0"
    assert kept[1] == "a" * 30
    written(tmp_path / "b.npz", failed=[1], last="end\0")
    with np.load(tmp_path / "b.npz") as found:
        assert found["label.lengths"].tolist() == [5, 0, 1, 4]
    written(tmp_path / "folder", last="end\0")
    with np.load(sorted((tmp_path / "folder").iterdir())[3]) as found:
        assert found["label.lengths"].tolist() == 4
    assert written(tmp_path / "a.jsonl", last="end\0") == ()
    assert json.loads((tmp_path / "a.jsonl").read_text().splitlines()[3])["label"] == "end\0"
