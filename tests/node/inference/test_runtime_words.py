from __future__ import annotations

import pytest

from peerinfer_node.inference.runtime_words import plain_words

FAILED = "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running "


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (
            FAILED
            + "ConstantOfShape node. Name:'' Status Message: /onnxruntime_src/onnxruntime/core/common/safeint.h:17 "
            "static void SafeIntExceptionHandler<onnxruntime::OnnxRuntimeException>::SafeIntOnOverflow() Integer overflow",
            "ConstantOfShape: Integer overflow",
        ),
        (
            FAILED + "ConstantOfShape node. Name:'big' Status Message: std::bad_alloc",
            "ConstantOfShape 'big': not enough memory",
        ),
        (
            FAILED + "Tile node. Name:'' Status Message: Tile output (a) is too large",
            "Tile: Tile output (a) is too large",
        ),
        (
            "[ONNXRuntimeError] : 1 : FAIL : /onnxruntime_src/core/graph/model.cc:256 onnxruntime::Model::Model("
            "onnx::ModelProto&&, const onnxruntime::PathString&) Unsupported model IR version: 99, max supported: 14",
            "Unsupported model IR version: 99, max supported: 14",
        ),
        (
            FAILED + "Gemm node. Name:'' Status Message: /onnxruntime_src/a.cc:7 bool onnxruntime::Gemm<T>::Compute("
            "onnxruntime::OpKernelContext*) const [with T = float] a was false. wrong axis",
            "Gemm: a was false. wrong axis",
        ),
        ("[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Got invalid dimensions : x", "Got invalid dimensions : x"),
        ("std::bad_alloc", "not enough memory"),
        ("anything else", "anything else"),
        ("", ""),
    ],
)
def test_what_onnx_runtime_says_is_told_without_its_source_files(message: str, words: str) -> None:
    assert plain_words(message) == words
