"""Online inference over HTTP: a real daemon, clients written for other servers, and the numbers of onnxruntime."""

from __future__ import annotations

import http.client
import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from swarm import Daemon, Swarm, wait_for
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers import models as tokenizer_models

pytestmark = pytest.mark.slow


def saved(nodes: list[Any], inputs: list[Any], outputs: list[Any], constants: list[Any]) -> bytes:
    graph = helper.make_graph(nodes, "g", inputs, outputs, constants)
    content: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    ).SerializeToString()
    return content


def dense(seed: int, dtype: int = TensorProto.FLOAT) -> bytes:
    """x[n,8] -> y[n,3], softmax of a matrix product."""
    weights = np.random.default_rng(seed).standard_normal((8, 3)).astype(helper.tensor_dtype_to_np_dtype(dtype))
    nodes = [helper.make_node("MatMul", ["x", "w"], ["z"]), helper.make_node("Softmax", ["z"], ["y"])]
    x, y = (helper.make_tensor_value_info(name, dtype, ["n", size]) for name, size in (("x", 8), ("y", 3)))
    return saved(nodes, [x], [y], [numpy_helper.from_array(weights, "w")])


def running_sum() -> bytes:
    """x[t] -> y[t]: the first axis is time, so that joining two requests would give wrong answers."""
    nodes = [helper.make_node("CumSum", ["x", "axis"], ["y"])]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["t"]) for name in "xy")
    return saved(nodes, [x], [y], [numpy_helper.from_array(np.array(0, np.int64), "axis")])


def embedder() -> bytes:
    """Token embeddings: ids and mask [n,s] -> last_hidden_state [n,s,6]."""
    table = np.random.default_rng(5).standard_normal((64, 6)).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("Cast", ["attention_mask"], ["m"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["m", "axes"], ["m3"]),
        helper.make_node("Mul", ["rows", "m3"], ["last_hidden_state"]),
    ]
    ids, mask = (
        helper.make_tensor_value_info(name, TensorProto.INT64, ["n", "s"]) for name in ("input_ids", "attention_mask")
    )
    out = helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["n", "s", 6])
    constants = [numpy_helper.from_array(table, "table"), numpy_helper.from_array(np.array([2], np.int64), "axes")]
    return saved(nodes, [ids, mask], [out], constants)


def identity_of(dtype: int) -> bytes:
    x, y = (helper.make_tensor_value_info(name, dtype, ["n", 2]) for name in "xy")
    return saved([helper.make_node("Identity", ["x"], ["y"])], [x], [y], [])


def local(content: bytes, **inputs: Any) -> dict[str, Any]:
    """What onnxruntime gives in this process."""
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, inputs), strict=True))


class Served:
    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.url = str(daemon.ready["http"])
        self.token = Path(daemon.ready["token_file"]).read_text().strip()
        self.headers = {"Authorization": f"Bearer {self.token}"}
        self.http = httpx.Client(base_url=self.url, headers=self.headers, timeout=60, trust_env=False)

    def infer(self, model: str, body: Any, **headers: str) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.http.post(f"/v2/models/{model}/infer", content=content, headers=headers)


@pytest.fixture(scope="module")
def served(shared: Swarm) -> Iterator[Served]:
    folder = shared.root / "models"
    for name, content in {
        "dense.onnx": dense(1),
        "sum.onnx": running_sum(),
        "versions/1/model.onnx": dense(2),
        "versions/3/model.onnx": dense(3),
        "half.onnx": dense(4, TensorProto.FLOAT16),
        "text/model.onnx": embedder(),
        "bad.onnx": b"not a model",
        **{f"id_{kind}.onnx": identity_of(number) for kind, number in KINDS.items()},
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    words = {word: number for number, word in enumerate(["[UNK]", "the", "a", "cat", "dog", "sat", "ran", "on", "mat"])}
    tokenizer = Tokenizer(tokenizer_models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "text" / "tokenizer.json"))
    found = Served(shared.join("ada", "--api", "127.0.0.1:0", "--models", folder))
    yield found
    assert found.http.get("/v2/health/live").status_code == 200  # whatever was sent, the daemon lives
    found.http.close()


KINDS = {
    "BOOL": TensorProto.BOOL, "UINT8": TensorProto.UINT8, "UINT16": TensorProto.UINT16, "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64, "INT8": TensorProto.INT8, "INT16": TensorProto.INT16, "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64, "FP16": TensorProto.FLOAT16, "FP32": TensorProto.FLOAT, "FP64": TensorProto.DOUBLE,
}  # fmt: skip


# --- tritonclient --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def triton(served: Served) -> Any:
    import tritonclient.http
    from tritonclient._plugin import InferenceServerClientPlugin
    from tritonclient.http import InferenceServerClient

    class Token(InferenceServerClientPlugin):
        def __call__(self, request: Any) -> None:
            request.headers.update(served.headers)

    client = InferenceServerClient(served.url.removeprefix("http://"), concurrency=8, network_timeout=60.0)
    client.register_plugin(Token())
    client.kinds = tritonclient.http
    yield client
    client.close()


def test_tritonclient_gets_the_numbers_of_onnxruntime(served: Served, triton: Any) -> None:
    rows = np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32)
    wanted = local(dense(1), x=rows)["y"]
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert "binary_tensor_data" in triton.get_server_metadata()["extensions"]
    assert triton.is_model_ready("dense")
    assert not triton.is_model_ready("nothing")
    metadata = triton.get_model_metadata("dense")
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 8]}]
    assert metadata["platform"] == "onnx_onnxv1"
    for binary_in in (True, False):
        for binary_out in (True, False):
            given = triton.kinds.InferInput("x", [5, 8], "FP32")
            given.set_data_from_numpy(rows, binary_data=binary_in)
            asked = triton.kinds.InferRequestedOutput("y", binary_data=binary_out)
            found = triton.infer("dense", [given], outputs=[asked], request_id="seven")
            np.testing.assert_allclose(found.as_numpy("y"), wanted, rtol=1e-5, atol=1e-6)
            assert found.get_response()["id"] == "seven"
    found = triton.infer("dense", [given], request_compression_algorithm="gzip", priority=1, timeout=5_000_000)
    np.testing.assert_allclose(found.as_numpy("y"), wanted, rtol=1e-5, atol=1e-6)
    stats = triton.get_inference_statistics("dense")["model_stats"][0]
    assert stats["inference_stats"]["success"]["count"] >= 5
    assert stats["inference_count"] >= 25
    ran = [(int(batch["batch_size"]), batch["compute_infer"]) for batch in stats["batch_stats"]]
    assert sum(int(spent["count"]) for _, spent in ran) == stats["execution_count"] >= 5
    assert sum(rows * int(spent["count"]) for rows, spent in ran) == stats["inference_count"]
    assert 0 < sum(int(spent["ns"]) for _, spent in ran) < stats["inference_stats"]["success"]["ns"]


def test_tritonclient_chooses_versions_and_loads_and_unloads(served: Served, triton: Any) -> None:
    rows = np.ones((1, 8), np.float32)
    given = triton.kinds.InferInput("x", [1, 8], "FP32")
    given.set_data_from_numpy(rows)
    for version, seed in (("1", 2), ("3", 3), ("", 3)):
        found = triton.infer("versions", [given], model_version=version)
        np.testing.assert_allclose(found.as_numpy("y"), local(dense(seed), x=rows)["y"], rtol=1e-5)
    assert {model["name"] for model in triton.get_model_repository_index()} >= {"dense", "versions", "sum"}
    triton.load_model("uploaded", config="{}", files={"file:1/model.onnx": dense(9)})
    found = triton.infer("uploaded", [given])
    np.testing.assert_allclose(found.as_numpy("y"), local(dense(9), x=rows)["y"], rtol=1e-5)
    triton.unload_model("uploaded")
    with pytest.raises(triton.kinds.InferenceServerException, match="unloaded"):
        triton.infer("uploaded", [given])
    triton.load_model("versions")


def test_tritonclient_sends_every_datatype_that_onnx_models_take(served: Served, triton: Any) -> None:
    for kind, number in KINDS.items():
        dtype = helper.tensor_dtype_to_np_dtype(number)
        rows = np.array([[0, 1], [1, 0], [1, 1]]).astype(dtype)
        given = triton.kinds.InferInput("x", [3, 2], kind)
        given.set_data_from_numpy(rows, binary_data=True)
        found = triton.infer(f"id_{kind}", [given]).as_numpy("y")
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, rows)


def test_many_threads_get_each_its_own_answer(served: Served, triton: Any) -> None:
    rows = np.random.default_rng(1).standard_normal((200, 8)).astype(np.float32)
    wanted = local(dense(1), x=rows)["y"]

    def ask(number: int) -> Any:
        body = {
            "id": str(number),
            "inputs": [{"name": "x", "shape": [1, 8], "datatype": "FP32", "data": rows[number].tolist()}],
        }
        answer = served.infer("dense", body)
        assert answer.status_code == 200, answer.text
        assert answer.json()["id"] == str(number)
        return answer.json()["outputs"][0]["data"]

    with ThreadPoolExecutor(16) as threads:
        found = np.array(list(threads.map(ask, range(200))))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


def test_a_model_whose_first_axis_is_no_batch_is_not_joined(served: Served) -> None:
    def ask(number: int) -> Any:
        data = [float(number)] * 4
        body = {"inputs": [{"name": "x", "shape": [4], "datatype": "FP32", "data": data}]}
        return served.infer("sum", body).json()["outputs"][0]["data"]

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(ask, range(32)))
    assert found == [[number * 1.0, number * 2.0, number * 3.0, number * 4.0] for number in range(32)]


# --- bytes on the wire ---------------------------------------------------------------------------------------------

ONE = {"name": "x", "shape": [1, 8], "datatype": "FP32", "data": [0.0] * 8}


def binary(head: dict[str, Any], data: bytes) -> tuple[bytes, str]:
    text = json.dumps(head).encode()
    return text + data, str(len(text))


def test_curl_needs_nothing_but_json(served: Served) -> None:
    answer = served.infer("dense", {"inputs": [ONE]})
    assert answer.status_code == 200
    body = answer.json()
    assert (body["model_name"], body["model_version"]) == ("dense", "1")
    assert body["outputs"][0] == {"name": "y", "datatype": "FP32", "shape": [1, 3], "data": pytest.approx([1 / 3] * 3)}


def test_binary_tensors_follow_the_json_in_both_directions(served: Served) -> None:
    rows = np.arange(8, dtype="<f4").reshape(1, 8)
    head = {
        "inputs": [{"name": "x", "shape": [1, 8], "datatype": "FP32", "parameters": {"binary_data_size": 32}}],
        "parameters": {"binary_data_output": True},
    }
    body, length = binary(head, rows.tobytes())
    answer = served.infer("dense", body, **{"Inference-Header-Content-Length": length})
    assert answer.status_code == 200
    end = int(answer.headers["inference-header-content-length"])
    described = json.loads(answer.content[:end])["outputs"][0]
    assert described == {"name": "y", "datatype": "FP32", "shape": [1, 3], "parameters": {"binary_data_size": 12}}
    found = np.frombuffer(answer.content[end:], "<f4").reshape(1, 3)
    np.testing.assert_allclose(found, local(dense(1), x=rows)["y"], rtol=1e-5)


def test_half_precision_goes_as_bytes_and_is_refused_as_json(served: Served) -> None:
    rows = np.ones((2, 8), np.float16)
    head = {
        "inputs": [{"name": "x", "shape": [2, 8], "datatype": "FP16", "parameters": {"binary_data_size": 32}}],
        "outputs": [{"name": "y", "parameters": {"binary_data": True}}],
    }
    body, length = binary(head, rows.tobytes())
    answer = served.infer("half", body, **{"Inference-Header-Content-Length": length})
    end = int(answer.headers["inference-header-content-length"])
    found = np.frombuffer(answer.content[end:], "<f2").reshape(2, 3)
    np.testing.assert_allclose(found, local(dense(4, TensorProto.FLOAT16), x=rows)["y"], rtol=1e-2)
    head["outputs"] = [{"name": "y"}]
    body, length = binary(head, rows.tobytes())
    assert served.infer("half", body, **{"Inference-Header-Content-Length": length}).status_code == 400
    given = {"name": "x", "shape": [2, 8], "datatype": "FP16", "data": [1.0] * 16}
    assert "binary" in served.infer("half", {"inputs": [given]}).json()["error"]


def test_text_for_a_model_of_numbers_is_refused_in_one_line(served: Served) -> None:
    for given in (
        {"name": "x", "shape": [1, 8], "datatype": "BYTES", "data": ["a"] * 8},
        {"name": "x", "shape": [1, 8], "datatype": "BYTES", "data": ["a"] * 7},
    ):
        answer = served.infer("dense", {"inputs": [given]})
        assert answer.status_code == 400
        assert "\n" not in answer.json()["error"]


BARE = {"name": "x", "shape": [1, 8], "datatype": "FP32"}

LIES: dict[str, tuple[Any, int]] = {
    "no JSON": (b"{", 400),
    "an array": (b"[]", 400),
    "deep": (b"[" * 100_000, 400),
    "nothing": (b"", 400),
    "no inputs": ({}, 400),
    "inputs of another kind": ({"inputs": 5}, 400),
    "an input of another kind": ({"inputs": [5]}, 400),
    "no name": ({"inputs": [{**ONE, "name": ""}]}, 400),
    "a name that is not the model's": ({"inputs": [{**ONE, "name": "z"}]}, 400),
    "twice": ({"inputs": [ONE, ONE]}, 400),
    "an unknown type": ({"inputs": [{**ONE, "datatype": "FP128"}]}, 400),
    "a type that is not the model's": ({"inputs": [{**ONE, "datatype": "FP64"}]}, 400),
    "a shape that overflows": ({"inputs": [{**ONE, "shape": [1 << 40, 1 << 40, 1 << 40]}]}, 400),
    "a shape beyond any number": ({"inputs": [{**ONE, "shape": [10**30, 8]}]}, 400),
    "a negative shape": ({"inputs": [{**ONE, "shape": [-1, -8]}]}, 400),
    "a shape of words": ({"inputs": [{**ONE, "shape": ["1", "8"]}]}, 400),
    "too many axes": ({"inputs": [{**ONE, "shape": [1] * 40}]}, 400),
    "another number of elements": ({"inputs": [{**ONE, "shape": [2, 8]}]}, 400),
    "an empty batch": ({"inputs": [{**ONE, "shape": [0, 8], "data": []}]}, 400),
    "one axis too few": ({"inputs": [{**ONE, "shape": [8]}]}, 400),
    "one axis too many": ({"inputs": [{**ONE, "shape": [1, 1, 8]}]}, 400),
    "the wrong width": ({"inputs": [{**ONE, "shape": [1, 7], "data": [0.0] * 7}]}, 400),
    "words for numbers": ({"inputs": [{**ONE, "data": ["a"] * 8}]}, 400),
    "ragged lists": ({"inputs": [{**ONE, "data": [[1.0], [2.0, 3.0]]}]}, 400),
    "no data": ({"inputs": [{key: value for key, value in ONE.items() if key != "data"}]}, 400),
    "a size without bytes": ({"inputs": [{**ONE, "data": None, "parameters": {"binary_data_size": 32}}]}, 400),
    "an endless size": ({"inputs": [{**BARE, "parameters": {"binary_data_size": 1 << 60}}]}, 400),
    "a negative size": ({"inputs": [{**BARE, "parameters": {"binary_data_size": -32}}]}, 400),
    "shared memory": ({"inputs": [{**ONE, "parameters": {"shared_memory_region": "r"}}]}, 501),
    "an unknown output": ({"inputs": [ONE], "outputs": [{"name": "z"}]}, 400),
    "classification": ({"inputs": [ONE], "outputs": [{"name": "y", "parameters": {"classification": 3}}]}, 501),
    "a priority that is none": ({"inputs": [ONE], "parameters": {"priority": "now"}}, 400),
    "a timeout that is none": ({"inputs": [ONE], "parameters": {"timeout": -1}}, 400),
    "a check for jobs": ({"inputs": [ONE], "parameters": {"verify": "adaptive"}}, 501),
    "a check that is none": ({"inputs": [ONE], "parameters": {"verify": "maybe"}}, 400),
    "large JSON": (b"[" + b"1," * (9 << 20) + b"1]", 503),
}  # fmt: skip


@pytest.mark.parametrize("what", LIES)
def test_a_request_that_lies_gets_one_line_and_the_right_status(served: Served, what: str) -> None:
    body, status = LIES[what]
    answer = served.infer("dense", body)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]
    assert "\n" not in answer.json()["error"]


@pytest.mark.parametrize("length", ["-1", "x", "1e9", "99999", str(1 << 70), "", "5"])
def test_a_json_length_that_lies_is_refused(served: Served, length: str) -> None:
    answer = served.infer("dense", {"inputs": [ONE]}, **{"Inference-Header-Content-Length": length})
    assert answer.status_code == 400


def test_bytes_that_nobody_claims_are_refused(served: Served) -> None:
    body, length = binary({"inputs": [ONE]}, b"more")
    assert served.infer("dense", body, **{"Inference-Header-Content-Length": length}).status_code == 400


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v2/models/nothing", 404),
        ("/v2/models/nothing/ready", 404),
        ("/v2/models/nothing/infer", 404),
        ("/v2/models/dense/versions/9", 404),
        ("/v2/models/dense/versions/x/ready", 404),
        ("/v2/models/..%2f..%2fetc%2fpasswd", 404),
        ("/v2/models/%2e%2e/ready", 404),
        ("/v2/models/.hidden", 404),
        ("/v2/models/bad", 400),
        ("/v2/models/bad/ready", 400),
    ],
)
def test_a_model_that_is_not_there_has_tritons_status(served: Served, path: str, status: int) -> None:
    if path.endswith("infer"):
        answer = served.http.post(path, json={"inputs": [ONE]})
    else:
        answer = served.http.get(httpx.URL(served.url).copy_with(raw_path=path.encode()))
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]


def test_nothing_is_loaded_from_a_name_that_is_a_path(served: Served) -> None:
    for name in ("%2e%2e", "a%2fb", ".x", "%00"):
        url = httpx.URL(served.url).copy_with(raw_path=f"/v2/repository/models/{name}/load".encode())
        assert served.http.post(url).status_code in (400, 404)


def test_a_bomb_in_gzip_is_refused(served: Served) -> None:
    import gzip

    body = gzip.compress(bytes(200 << 20))
    answer = served.infer("dense", body, **{"Content-Encoding": "gzip"})
    assert answer.status_code == 503
    assert served.infer("dense", b"no gzip", **{"Content-Encoding": "gzip"}).status_code == 400
    assert served.infer("dense", b"{}", **{"Content-Encoding": "br"}).status_code == 501


# --- embeddings ----------------------------------------------------------------------------------------------------


def test_the_openai_client_gets_embeddings_of_a_text_model(served: Served) -> None:
    import openai

    client = openai.OpenAI(base_url=f"{served.url}/v1", api_key=served.token)
    texts = ["the cat sat on the mat", "a dog ran", "the cat sat on the mat", "cat " * 40]
    answer = client.embeddings.create(model="text", input=texts)
    found = np.array([each.embedding for each in answer.data])
    assert found.shape == (4, 6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(found[0], found[2])
    ids = np.array([[2, 4, 6]])  # a dog ran
    rows = local(embedder(), input_ids=ids, attention_mask=np.ones_like(ids))["last_hidden_state"][0].mean(axis=0)
    np.testing.assert_allclose(found[1], rows / np.linalg.norm(rows), rtol=1e-4, atol=1e-6)
    assert answer.usage.prompt_tokens == 6 + 3 + 6 + 40
    plain = client.embeddings.create(model="text", input="a dog ran", encoding_format="float")
    np.testing.assert_allclose(plain.data[0].embedding, found[1], rtol=1e-4, atol=1e-6)
    assert "text" in {model.id for model in client.models.list()}
    with pytest.raises(openai.BadRequestError, match="tokenizer"):
        client.embeddings.create(model="dense", input="x")
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="nothing", input="x")
    with pytest.raises(openai.BadRequestError, match="empty"):
        client.embeddings.create(model="text", input="")
    client.close()


# --- bytes, pages, figures -----------------------------------------------------------------------------------------


def test_a_blob_comes_back_as_it_went_in_and_a_model_in_it_is_served_by_its_cid(served: Served) -> None:
    content = dense(11)
    answer = served.http.post("/api/v1/blobs", content=content)
    assert answer.status_code == 201
    cid = answer.json()["cid"]
    assert served.http.get(f"/api/v1/blobs/{cid}").content == content
    assert served.http.get(f"/api/v1/blobs/{cid[:-1]}a").status_code in (400, 404)
    assert served.http.get("/api/v1/blobs/..%2f..").status_code in (400, 404)
    rows = np.ones((1, 8), np.float32)
    body = {"inputs": [{**ONE, "data": rows.tolist()}]}
    found = served.infer(cid, body).json()["outputs"][0]["data"]
    np.testing.assert_allclose([found], local(content, x=rows)["y"], rtol=1e-4)
    assert served.http.post("/v2/repository/models/named/load", json={"parameters": {"cid": cid}}).status_code == 200
    assert served.infer("named", body).status_code == 200


def test_a_job_runs_on_uploaded_files(served: Served) -> None:
    rows = np.random.default_rng(2).standard_normal((20, 8)).astype(np.float32)
    packed = io.BytesIO()
    np.savez(packed, x=rows)
    model = served.http.post("/api/v1/uploads?name=m.onnx", content=dense(1)).json()["path"]
    given = served.http.post("/api/v1/uploads?name=in.npz", content=packed.getvalue()).json()["path"]
    job = served.http.post("/api/v1/jobs", json={"model": model, "inputs": [given], "verify": "none"}).json()["job_id"]
    last = served.http.get(f"/api/v1/jobs/{job}/watch").text.splitlines()[-1]
    assert json.loads(last)["state"] == "done"
    timeline = served.http.get(f"/api/v1/jobs/{job}/timeline").json()
    assert sum(entry["tasks"] for entry in timeline) >= json.loads(last)["tasks"]
    assert served.http.delete("/api/v1/uploads", params={"path": given}).status_code == 204
    assert not Path(given).exists()
    for path in ("/etc/passwd", f"{given}/../../../../x", ""):
        assert served.http.delete("/api/v1/uploads", params={"path": path}).status_code == 400
    for name in ("", "../x", "a/b", ".x", "a" * 200):
        assert served.http.post("/api/v1/uploads", params={"name": name}, content=b"x").status_code == 400


def test_an_upload_that_says_it_is_larger_than_a_blob_may_be_is_refused(served: Served) -> None:
    connection = http.client.HTTPConnection(served.url.removeprefix("http://"), timeout=30)
    connection.putrequest("POST", "/api/v1/blobs")
    connection.putheader("Authorization", served.headers["Authorization"])
    connection.putheader("Content-Length", str(1 << 50))
    connection.endheaders(b"x")
    assert connection.getresponse().status == 429
    connection.close()


def test_the_pages_describe_every_route(served: Served) -> None:
    document = httpx.get(f"{served.url}/openapi.json").json()
    for path in (
        "/api/v1/node",
        "/api/v1/jobs/{job}",
        "/api/v1/events",
        "/v2/models/{model}/infer",
        "/metrics",
        "/v1/embeddings",
    ):
        assert path in document["paths"]
        assert all(operation["summary"] for operation in document["paths"][path].values()), path
    page = httpx.get(f"{served.url}/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "/v2/models/{model}/infer" in page.text
    assert "//" not in page.text.replace("<!doctype", "")  # it loads nothing from anywhere


def test_metrics_are_figures_for_prometheus(served: Served) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    served.infer("dense", {"inputs": [ONE]})
    families = {family.name: family for family in text_string_to_metric_families(served.http.get("/metrics").text)}
    outcomes = {sample.labels["outcome"]: sample.value for sample in families["peerinfer_tasks"].samples}
    assert outcomes["accepted"] > 0
    counts = {
        sample.labels["stage"]: sample.value
        for sample in families["peerinfer_task_seconds"].samples
        if sample.name.endswith("_count")
    }
    assert counts["compute"] == counts["queue"] == counts["transfer"] > 0
    assert {sample.labels["state"] for sample in families["peerinfer_peers"].samples} == {
        "alive",
        "suspect",
        "dead",
        "left",
    }


# --- nobody has room -----------------------------------------------------------------------------------------------


@pytest.fixture
def paused(served: Served) -> Iterator[None]:
    """The only worker takes nothing."""
    assert served.http.post("/api/v1/node/pause").status_code == 204
    yield
    assert served.http.post("/api/v1/node/resume").status_code == 204


def figure(served: Served, name: str) -> float:
    line = next(line for line in served.http.get("/metrics").text.splitlines() if line.startswith(f"{name} "))
    return float(line.split()[-1])


@pytest.mark.usefixtures("paused")
def test_a_request_that_nobody_answers_in_its_time_is_told_to_come_back(served: Served) -> None:
    answer = served.infer("dense", {"inputs": [ONE], "parameters": {"timeout": 200_000}})
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert "0.2 s" in answer.json()["error"]


@pytest.mark.usefixtures("paused")
def test_a_client_that_goes_takes_its_request_along(served: Served) -> None:
    connection = http.client.HTTPConnection(served.url.removeprefix("http://"), timeout=30)
    connection.request("POST", "/v2/models/dense/infer", json.dumps({"inputs": [ONE]}), served.headers)
    wait_for(lambda: figure(served, "peerinfer_requests_under_way") == 1, timeout_s=30)
    connection.close()
    wait_for(lambda: figure(served, "peerinfer_requests_under_way") == 0, timeout_s=30)
    depth = 'peerinfer_queue_depth{queue="requests"}'
    wait_for(lambda: figure(served, depth) == 0, timeout_s=30)
    wait_for(lambda: figure(served, 'peerinfer_queue_depth{queue="tasks"}') == 0, timeout_s=30)
