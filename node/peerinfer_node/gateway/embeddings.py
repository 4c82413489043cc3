"""`/v1/embeddings` and `/v1/models` in OpenAI's form, for text models that bring their tokenizer.

A text model is a folder with `model.onnx` and `tokenizer.json`. Its inputs are some of `input_ids`, `attention_mask` and
`token_type_ids`; its output is one vector for each text, or one for each token, whose mean over the text is taken as
sentence-transformers does. Vectors have length 1. Texts are padded to steps of `PADDING`, so that texts of about one
length are computed together.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import trio
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from peerinfer.errors import InputError, LimitExceeded, NotSupported, PeerinferError, UsageError
from peerinfer.fairness import Priority
from peerinfer.limits import MIB
from peerinfer_node.gateway.refusals import RETRY_AFTER_S, Refusals
from peerinfer_node.online import REQUEST_TIMEOUT_S
from peerinfer_node.serving import ServedModel, Serving

TEXTS_MAX = 2048
"""In one request, as in OpenAI's."""

TOKENS_MAX = 8192
TOKENIZER_BYTES_MAX = 64 * MIB
PADDING = 16
TEXTS_TOGETHER = 32
"""Texts in one request to the model."""

_NEEDED = "the tokenizers package is not installed here: pip install 'peerinfer[text]'"
_IDS, _MASK, _TYPES = "input_ids", "attention_mask", "token_type_ids"

Floats = NDArray[np.floating[Any]]


class EmbeddingRoutes:
    def __init__(self, serving: Serving, refusals: Refusals) -> None:
        self._serving = serving
        self._refusals = refusals
        self._tokenizers: dict[Path, Any] = {}

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/v1/embeddings", self.embeddings, methods=["POST"]),
            Route("/v1/models", self.models, methods=["GET"]),
        ]

    async def models(self, request: Request) -> Response:
        """The models that are served or could be."""
        names = dict.fromkeys(model["name"] for model in await self._serving.index())
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "peerinfer"} for name in names]
        return JSONResponse({"object": "list", "data": data})

    async def embeddings(self, request: Request) -> Response:
        """One vector for each text."""
        try:
            return JSONResponse(await self._embed(await request.body()))
        except Exception as error:
            return _openai_refusal(self._refusals.told(error))

    async def _embed(self, body: bytes) -> dict[str, Any]:
        asked = _read(body)
        model = await self._serving.model(asked["model"])
        if model.tokenizer is None:
            raise InputError(f"the model {model.name} has no tokenizer.json beside it, so it takes no text")
        tokenizer = await self._tokenizer(model.tokenizer)
        tokens = await trio.to_thread.run_sync(_tokenize, tokenizer, asked["input"])
        vectors: list[Floats | None] = [None] * len(tokens)
        # Texts of one padded length go together: nearly the whole batch is text then, and requests share shapes.
        order = sorted(range(len(tokens)), key=lambda position: _padded(len(tokens[position])))
        async with trio.open_nursery() as nursery:
            while order:
                length = _padded(len(tokens[order[0]]))
                together = [position for position in order[:TEXTS_TOGETHER] if _padded(len(tokens[position])) == length]
                order = order[len(together) :]
                nursery.start_soon(self._run, model, together, tokens, length, vectors)
        dimensions = asked["dimensions"]
        data = []
        for position, vector in enumerate(vectors):
            assert vector is not None
            shown = _normal(vector[:dimensions]) if dimensions else vector
            data.append(
                {"object": "embedding", "index": position, "embedding": _shown(shown, asked["encoding_format"])}
            )
        count = sum(len(each) for each in tokens)
        usage = {"prompt_tokens": count, "total_tokens": count}
        return {"object": "list", "data": data, "model": model.name, "usage": usage}

    async def _run(
        self,
        model: ServedModel,
        positions: Sequence[int],
        tokens: Sequence[Sequence[int]],
        length: int,
        vectors: list[Floats | None],
    ) -> None:
        ids = np.zeros((len(positions), length), np.int64)
        mask = np.zeros_like(ids)
        for row, position in enumerate(positions):
            ids[row, : len(tokens[position])] = tokens[position]
            mask[row, : len(tokens[position])] = 1
        given = {_IDS: ids, _MASK: mask, _TYPES: np.zeros_like(ids)}
        inputs = {}
        for port in model.interface.inputs:
            if port.name not in given:
                raise InputError(f"the model takes {port.name!r}, which is no input of a text model")
            inputs[port.name] = given[port.name].astype(port.dtype)
        outputs = await self._serving.infer(
            model, inputs, timeout_s=REQUEST_TIMEOUT_S, priority=Priority.NORMAL, verify="none"
        )
        for row, vector in enumerate(_pooled(outputs, mask)):
            vectors[positions[row]] = vector

    async def _tokenizer(self, path: Path) -> Any:
        if path not in self._tokenizers:
            self._tokenizers[path] = await trio.to_thread.run_sync(_load_tokenizer, path)
        return self._tokenizers[path]


def _read(body: bytes) -> dict[str, Any]:
    try:
        raw = json.loads(body)
    except (ValueError, RecursionError):
        raise UsageError("the request is not JSON") from None
    if not isinstance(raw, dict) or not isinstance(raw.get("model"), str):
        raise UsageError("the request names no model")
    texts = raw.get("input")
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise UsageError("input: give a text or a list of texts")
    if len(texts) > TEXTS_MAX:
        raise UsageError(f"input: {len(texts)} texts; give at most {TEXTS_MAX}")
    encoding_format = raw.get("encoding_format", "float")
    if encoding_format not in ("float", "base64"):
        raise UsageError("encoding_format: give float or base64")
    dimensions = raw.get("dimensions")
    if dimensions is not None and (type(dimensions) is not int or dimensions < 1):
        raise UsageError("dimensions: give a number of at least 1")
    return {"model": raw["model"], "input": texts, "encoding_format": encoding_format, "dimensions": dimensions}


def _load_tokenizer(path: Path) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise NotSupported(_NEEDED) from None
    try:
        if path.stat().st_size > TOKENIZER_BYTES_MAX:
            raise InputError(f"{path} is too large for a tokenizer")
        tokenizer = Tokenizer.from_file(str(path))
    except PeerinferError:
        raise
    except Exception as error:  # the library raises a bare Exception for what is not a tokenizer
        raise InputError(f"{path} is not a tokenizer: {error}"[:300]) from None
    tokenizer.no_padding()
    return tokenizer


def _tokenize(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    found = [list(encoding.ids) for encoding in tokenizer.encode_batch(list(texts))]
    for position, ids in enumerate(found):
        if len(ids) > TOKENS_MAX:
            raise InputError(f"text {position} has {len(ids)} tokens; at most {TOKENS_MAX} are taken")
        if not ids:
            raise InputError(f"text {position} is empty")
    return found


def _padded(length: int) -> int:
    return -(-length // PADDING) * PADDING


def _pooled(outputs: dict[str, Any], mask: NDArray[np.int64]) -> Floats:
    """One vector of length 1 for each text."""
    flat = [array for array in outputs.values() if array.ndim == 2 and array.dtype.kind == "f"]
    if "sentence_embedding" in outputs:
        vectors = outputs["sentence_embedding"]
    elif flat and not any(array.ndim == 3 for array in outputs.values()):
        vectors = flat[0]
    else:
        by_token = next((array for array in outputs.values() if array.ndim == 3 and array.dtype.kind == "f"), None)
        if by_token is None:
            raise InputError("the model gives neither a vector for each text nor one for each token")
        weights = mask[:, :, None].astype(np.float32)
        vectors = (by_token.astype(np.float32) * weights).sum(axis=1) / weights.sum(axis=1)
    return _normal(np.asarray(vectors, np.float32))


def _normal(vectors: Floats) -> Floats:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(length, 1e-12), np.float32)


def _shown(vector: Floats, encoding_format: str) -> Any:
    if encoding_format == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return vector.tolist()


def _openai_refusal(error: PeerinferError) -> Response:
    is_busy = isinstance(error, LimitExceeded)
    status = 503 if is_busy else error.http_status
    kind = "invalid_request_error" if status < 500 else "server_error"
    headers = {"retry-after": str(RETRY_AFTER_S)} if status == 503 else {}
    told = {"message": str(error), "type": kind, "param": None, "code": type(error).__name__}
    return JSONResponse({"error": told}, status, headers)
