"""Strings, and half precision, from files and requests through real daemons to ONNX Runtime and back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnxruntime
import pytest
from models import constant, port
from onnx import TensorProto, helper
from swarm import Daemon, Swarm

import peerinfer
from peerinfer.errors import InputError

pytestmark = pytest.mark.slow

WORDS = ["cat", "dog", "bird", "fisch", "ネコ", "", "no such animal " * 20]


def animals() -> bytes:
    """word[n] -> sound[n] (by label encoders), legs[n,1], loud[n] (the word and "!")."""
    sounds = ["meow", "woof", "tweet", "…", "にゃあ"]
    nodes = [
        helper.make_node(
            "LabelEncoder", ["word"], ["number"], domain="ai.onnx.ml",
            keys_strings=WORDS[:5], values_int64s=list(range(5)), default_int64=-1,
        ),
        helper.make_node(
            "LabelEncoder", ["number"], ["sound"], domain="ai.onnx.ml",
            keys_int64s=list(range(5)), values_strings=sounds, default_string="(silence)",
        ),
        helper.make_node("Cast", ["number"], ["as_float"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["as_float", "axes"], ["legs"]),
        helper.make_node("StringConcat", ["word", "bang"], ["loud"]),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "g",
        [port("word", TensorProto.STRING, ["n"])],
        [
            port("sound", TensorProto.STRING, ["n"]),
            port("legs", TensorProto.FLOAT, ["n", 1]),
            port("loud", TensorProto.STRING, ["n"]),
        ],
        [constant("axes", np.array([1], np.int64)), helper.make_tensor("bang", TensorProto.STRING, [1], [b"!"])],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("ai.onnx.ml", 3)]
    made: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()
    return made


def halves() -> bytes:
    """x f16[n,8] -> y f16[n,4]."""
    weights = np.random.default_rng(4).standard_normal((8, 4)).astype(np.float16)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [port("x", TensorProto.FLOAT16, ["n", 8])],
        [port("y", TensorProto.FLOAT16, ["n", 4])],
        [constant("w", weights)],
    )
    made: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    ).SerializeToString()
    return made


def direct(model: bytes, **inputs: Any) -> dict[str, Any]:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


@pytest.fixture(scope="module")
def workers(shared: Swarm) -> tuple[Daemon, Daemon]:
    first = shared.join("ada")
    return first, shared.join("bob", bootstrap=first)


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    (tmp_path / "animals.onnx").write_bytes(animals())
    (tmp_path / "halves.onnx").write_bytes(halves())
    rng = np.random.default_rng(1)
    return [WORDS[number] for number in rng.integers(0, len(WORDS), 500)]


@pytest.mark.parametrize("verify", ["quorum:2", "adaptive", "none"])
def test_a_job_over_strings_gives_what_onnxruntime_gives_whoever_checks(
    shared: Swarm, workers: tuple[Daemon, Daemon], words: list[str], tmp_path: Path, verify: str
) -> None:
    np.savez(tmp_path / "in.npz", word=np.array(words))
    run = shared.run(
        "researcher", "run", tmp_path / "animals.onnx", tmp_path / "in.npz", "-o", tmp_path / "out.npz", "--json",
        "--verify", verify, *(word for worker in workers for word in ("--bootstrap", worker.address)),
    )  # fmt: skip
    assert run.code == 0, run.told()
    assert run.json["failed"] == 0
    assert {peer["peer_id"] for peer in run.json["peers"]} <= {worker.peer_id for worker in workers}
    expected = direct(animals(), word=np.array(words, object))
    with np.load(tmp_path / "out.npz") as found:
        for name in ("sound", "loud"):
            assert found[name].tolist() == expected[name].tolist()
        np.testing.assert_array_equal(found["legs"], expected["legs"])


def test_texts_in_lines_and_tables_give_lines_and_tables(
    shared: Swarm, workers: tuple[Daemon, Daemon], words: list[str], tmp_path: Path
) -> None:
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"word": word}) + "\n" for word in words))
    expected = direct(animals(), word=np.array(words, object))["loud"].tolist()
    for source, target in (("in.jsonl", "out.parquet"), ("out.parquet", "out.jsonl")):
        if source.endswith(".parquet"):
            import pyarrow.parquet as pq

            table = pq.read_table(tmp_path / source)
            assert table["loud"].to_pylist() == expected
            pq.write_table(table.select(["loud"]).rename_columns(["word"]), tmp_path / source)
            expected = [f"{word}!" for word in expected]
        run = shared.run(
            "researcher", "run", tmp_path / "animals.onnx", tmp_path / source, "-o", tmp_path / target, "--json",
            "--bootstrap", workers[0].address,
        )  # fmt: skip
        assert run.code == 0, run.told()
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["loud"] for line in lines] == expected


def test_a_job_in_half_precision_gives_half_precision(
    shared: Swarm, workers: tuple[Daemon, Daemon], words: list[str], tmp_path: Path
) -> None:
    rows = np.random.default_rng(2).standard_normal((300, 8)).astype(np.float16)
    np.savez(tmp_path / "in.npz", x=rows)
    run = shared.run(
        "researcher", "run", tmp_path / "halves.onnx", tmp_path / "in.npz", "-o", tmp_path / "out.npz", "--json",
        "--verify", "quorum:2", *(word for worker in workers for word in ("--bootstrap", worker.address)),
    )  # fmt: skip
    assert run.code == 0, run.told()
    with np.load(tmp_path / "out.npz") as found:
        assert found["y"].dtype == np.float16
        np.testing.assert_allclose(found["y"], direct(halves(), x=rows)["y"], rtol=1e-2, atol=1e-2)


def test_numbers_for_a_model_of_strings_are_refused_before_anything_is_sent(
    shared: Swarm, words: list[str], tmp_path: Path
) -> None:
    np.savez(tmp_path / "in.npz", word=np.arange(3))
    run = shared.run(
        "me", "run", tmp_path / "animals.onnx", tmp_path / "in.npz", "-o", tmp_path / "out.npz", "--standalone"
    )
    assert run.code == 3
    assert "the model takes string[?], given int64[3]; give string" in run.stderr


# --- online --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(shared: Swarm) -> Iterator[Daemon]:
    folder = shared.root / "string-models"
    folder.mkdir()
    (folder / "animals.onnx").write_bytes(animals())
    found = shared.join("eve", "--api", "127.0.0.1:0", "--models", folder)
    yield found
    assert found.ask("GET", "/node")["state"] == "running"


@pytest.fixture
def http(server: Daemon) -> Iterator[httpx.Client]:
    token = Path(server.ready["token_file"]).read_text().strip()
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=server.ready["http"], headers=headers, timeout=60, trust_env=False) as client:
        yield client


def test_tritonclient_sends_and_gets_strings_as_it_does_with_triton(server: Daemon) -> None:
    import tritonclient.http as triton
    from tritonclient._plugin import InferenceServerClientPlugin

    class Token(InferenceServerClientPlugin):
        def __call__(self, request: Any) -> None:
            request.headers["Authorization"] = f"Bearer {Path(server.ready['token_file']).read_text().strip()}"

    client = triton.InferenceServerClient(server.ready["http"].removeprefix("http://"), network_timeout=60.0)
    client.register_plugin(Token())
    metadata = client.get_model_metadata("animals")
    assert metadata["inputs"] == [{"name": "word", "datatype": "BYTES", "shape": [-1]}]
    expected = direct(animals(), word=np.array(WORDS, object))
    for binary_in in (True, False):
        for binary_out in (True, False):
            given = triton.InferInput("word", [len(WORDS)], "BYTES")
            given.set_data_from_numpy(np.array(WORDS, object), binary_data=binary_in)
            asked = [triton.InferRequestedOutput(name, binary_data=binary_out) for name in ("sound", "loud", "legs")]
            found = client.infer("animals", [given], outputs=asked)
            for name in ("sound", "loud"):
                texts = [text if isinstance(text, str) else text.decode() for text in found.as_numpy(name).tolist()]
                assert texts == expected[name].tolist()
            np.testing.assert_array_equal(found.as_numpy("legs"), expected["legs"])
    client.close()


def test_strings_of_many_lengths_that_come_together_get_each_its_own_answer(http: httpx.Client) -> None:
    def ask(number: int) -> Any:
        text = "x" * (number * 7 % 300) + str(number)
        body = {
            "inputs": [{"name": "word", "datatype": "BYTES", "shape": [1], "data": [text]}],
            "outputs": [{"name": "loud"}],
        }
        answer = http.post("/v2/models/animals/infer", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()["outputs"][0]["data"] == [text + "!"]

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(ask, range(200)))


def binary(size: int, shape: list[int], data: bytes) -> dict[str, Any]:
    entry = {"name": "word", "datatype": "BYTES", "shape": shape, "parameters": {"binary_data_size": size}}
    head = json.dumps({"inputs": [entry]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    return {"content": head + data, "headers": headers}


LONG = (1 << 20) - 4

LIES: dict[str, tuple[dict[str, Any], str]] = {
    "a length beyond the tensor": (binary(8, [1], b"\5\0\0\0abcd"), "reaches beyond the tensor"),
    "a length of four gibibytes": (binary(8, [1], b"\xff\xff\xff\xffabcd"), "reaches beyond the tensor"),
    "half a length": (binary(6, [2], b"\0\0\0\0\1\0"), "do not fit"),
    "more elements than bytes": (binary(8, [1 << 40], bytes(8)), "do not fit"),
    "bytes behind the last": (binary(8, [1], b"\1\0\0\0abcd"), "follow its last"),
    "no UTF-8": (binary(6, [1], b"\2\0\0\0\xc3("), "UTF-8"),
    "a string that is too long": (
        binary(LONG + 5, [1], (LONG + 1).to_bytes(4, "little") + bytes(LONG + 1)),
        "at most 1048572",
    ),
    "one long among many": (
        binary(LONG + 4 + 4 * 300, [301], LONG.to_bytes(4, "little") + bytes(LONG) + bytes(4 * 300)),
        "pass the limit",
    ),
    "numbers": ({"json": {"inputs": [{"name": "word", "datatype": "BYTES", "shape": [1], "data": [5]}]}}, "texts"),
    "half a surrogate": (
        {"content": b'{"inputs": [{"name": "word", "datatype": "BYTES", "shape": [1], "data": ["\\ud800"]}]}'},
        "UTF-8",
    ),
    "integers": (
        {"json": {"inputs": [{"name": "word", "datatype": "INT64", "shape": [1], "data": [5]}]}},
        "the model takes",
    ),
}


@pytest.mark.parametrize("what", LIES)
def test_strings_that_lie_get_one_line_and_400(http: httpx.Client, what: str) -> None:
    request, line = LIES[what]
    answer = http.post("/v2/models/animals/infer", **request)
    assert answer.status_code == 400, answer.text
    assert line in answer.json()["error"]
    assert "\n" not in answer.json()["error"]


def test_the_longest_string_there_may_be_is_answered(http: httpx.Client) -> None:
    text = "x" * (LONG - 1)
    answer = http.post(
        "/v2/models/animals/infer", **binary(LONG + 3, [1], (LONG - 1).to_bytes(4, "little") + text.encode())
    )
    assert answer.status_code == 200, answer.text
    (loud,) = [each for each in answer.json()["outputs"] if each["name"] == "loud"]
    assert loud["data"] == [text + "!"]


def test_an_output_that_grows_beyond_the_limit_fails_and_says_so(http: httpx.Client) -> None:
    answer = http.post("/v2/models/animals/infer", **binary(LONG + 4, [1], LONG.to_bytes(4, "little") + b"x" * LONG))
    assert answer.status_code == 500
    assert "a string of 1048573 bytes; peerinfer carries at most 1048572" in answer.json()["error"]


def test_the_python_client_takes_and_gives_strings(shared: Swarm, server: Daemon, tmp_path: Path) -> None:
    (tmp_path / "animals.onnx").write_bytes(animals())
    expected = direct(animals(), word=np.array(WORDS, object))
    with peerinfer.connect(server.home) as swarm:
        for given in (np.array(WORDS), np.array(WORDS, object), np.char.encode(np.array(WORDS), "utf-8")):
            found = swarm.infer(tmp_path / "animals.onnx", {"word": given})
            assert found["loud"].tolist() == expected["loud"].tolist()
            outputs = swarm.submit(tmp_path / "animals.onnx", {"word": given}).result()
            assert outputs["sound"].tolist() == expected["sound"].tolist()
            np.testing.assert_array_equal(outputs["legs"], expected["legs"])
        items = {
            str(item.outputs["loud"]) for item in swarm.submit(tmp_path / "animals.onnx", {"word": given}).results()
        }
        assert items == set(expected["loud"].tolist())
        with pytest.raises(InputError, match="'word': the array holds Python objects that are not strings"):
            swarm.infer(tmp_path / "animals.onnx", {"word": np.array([{}])})
        with pytest.raises(InputError, match="end in zeros do not travel"):
            swarm.submit(tmp_path / "animals.onnx", {"word": np.array(["a\0"], object)})
        assert swarm.infer(tmp_path / "animals.onnx", {"word": np.array(["a\0"], object)})["loud"].tolist() == ["a\0!"]
