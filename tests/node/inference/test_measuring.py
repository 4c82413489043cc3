from __future__ import annotations

from types import SimpleNamespace

import pytest

from peerinfer_node.inference import measuring


def test_a_provider_that_sees_through_the_chain_has_no_bandwidth(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO computed one number in place of a chain of tensors, which would have been 746 TB/s."""
    monkeypatch.setattr(measuring, "MEASURE_SECONDS", 0.001)
    assert measuring.device_gbs(lambda data: SimpleNamespace(run=lambda outputs, feeds: None)) == 0.0
