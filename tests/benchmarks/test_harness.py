from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import bare_stream
import codec_bench
import numpy as np
import onnx
import pytest
import run
import workload
from harness import Measurement, Row, compare, machine, percentile, read_values, table, write_results
from onnx.reference import ReferenceEvaluator

STREAM = Measurement("stream_p50", 0.5, "ms")


def row_of(measurement: Measurement, *others: Measurement) -> Row:
    return compare([*others, measurement])[-1]


def test_a_ratio_is_the_value_over_its_baselines_value() -> None:
    row = row_of(Measurement("node_p50", 1.5, "ms", baseline="stream_p50"), STREAM)
    assert row.ratio == 3.0
    assert row.budget_met is None


def test_a_baseline_may_stand_after_what_is_measured_against_it() -> None:
    rows = compare([Measurement("node_p50", 1.0, "ms", baseline="stream_p50"), STREAM])
    assert [row.ratio for row in rows] == [2.0, None]


@pytest.mark.parametrize(
    ("better", "value", "met"),
    [("lower", 1.0, True), ("lower", 1.01, False), ("higher", 1.0, True), ("higher", 0.99, False)],
)
def test_a_budget_bounds_the_ratio_on_the_side_that_is_worse(better: str, value: float, met: bool) -> None:
    measured = Measurement("node_p50", value, "ms", better, "stream_p50", budget=2.0)  # type: ignore[arg-type]
    assert row_of(measured, STREAM).budget_met is met


@pytest.mark.parametrize(("value", "met"), [(200_000, True), (199_999, False)])
def test_without_a_baseline_a_budget_bounds_the_value_itself(value: float, met: bool) -> None:
    assert row_of(Measurement("codec", value, "messages/s", "higher", budget=200_000)).budget_met is met


def test_a_baseline_that_was_not_measured_gives_no_ratio_and_no_verdict() -> None:
    row = row_of(Measurement("node_p50", 1.0, "ms", baseline="stream_p50", budget=2.0))
    assert row.ratio is None
    assert row.budget_met is None
    assert table([row]).endswith("not measured")


def test_a_baseline_of_zero_gives_no_ratio() -> None:
    assert row_of(Measurement("b", 1.0, "ms", baseline="a"), Measurement("a", 0.0, "ms")).ratio is None


def test_a_baseline_in_another_unit_is_refused() -> None:
    with pytest.raises(ValueError, match="node_p50 is in s, its baseline stream_p50 in ms"):
        compare([STREAM, Measurement("node_p50", 0.001, "s", baseline="stream_p50")])


def test_a_name_is_used_once() -> None:
    with pytest.raises(ValueError, match="stream_p50"):
        compare([STREAM, STREAM])


def test_the_table_is_aligned_and_says_which_budgets_were_missed() -> None:
    rows = compare(
        [
            STREAM,
            Measurement("node_p50", 0.75, "ms", baseline="stream_p50", budget=2.0),
            Measurement("codec", 123456.7, "messages/s", "higher", budget=200_000),
        ]
    )
    assert table(rows).splitlines() == [
        "measurement    value  unit        baseline     ratio     budget",
        "stream_p50     0.500  ms",
        "node_p50       0.750  ms          stream_p50  1.500×        ≤ 2  met",
        "codec        123,457  messages/s                      ≥ 200,000  MISSED",
    ]


def test_the_file_holds_value_unit_baseline_and_ratio_by_name(tmp_path: Path) -> None:
    path = tmp_path / "build" / "bench.json"
    write_results(path, compare([STREAM, Measurement("node_p50", 1.5, "ms", baseline="stream_p50", budget=2.0)]))
    assert json.loads(path.read_text(encoding="utf-8")) == {
        "stream_p50": {"value": 0.5, "unit": "ms", "baseline": None, "ratio": None},
        "node_p50": {"value": 1.5, "unit": "ms", "baseline": "stream_p50", "ratio": 3.0},
    }
    assert read_values(path) == {"stream_p50": (0.5, "ms"), "node_p50": (1.5, "ms")}


def test_a_later_run_replaces_the_file(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    write_results(path, compare([STREAM]))
    write_results(path, compare([Measurement("codec", 1.0, "messages/s")]))
    assert list(read_values(path)) == ["codec"]


def test_there_are_no_values_where_there_is_no_file(tmp_path: Path) -> None:
    assert read_values(tmp_path / "bench.json") == {}


def test_the_machine_is_described_at_the_given_time() -> None:
    described = machine(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    assert described["date"] == "2026-01-02T03:04:05+00:00"
    assert isinstance(described["cores"], int)
    assert str(described["python"]).startswith("3.")


@pytest.mark.parametrize(("percent", "value"), [(0, 1), (1, 1), (50, 50), (99, 99), (100, 100)])
def test_a_percentile_is_the_value_that_so_many_percent_do_not_pass(percent: float, value: float) -> None:
    assert percentile(list(range(100, 0, -1)), percent) == value


def test_a_percentile_of_few_values_is_one_of_them() -> None:
    assert percentile([3.0, 1.0, 2.0], 50) == 2.0
    assert percentile([7.0], 99) == 7.0
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


# --- the benchmarks themselves -------------------------------------------------------------------------------------


def test_the_workloads_network_says_what_its_answers_say() -> None:
    rows = workload.inputs(5)
    outputs = ReferenceEvaluator(onnx.load_from_string(workload.model())).run(None, {workload.INPUT_NAME: rows})
    workload.check(rows, outputs[0])


def test_a_wrong_or_missing_answer_voids_the_measurement() -> None:
    rows = workload.inputs(3)
    outputs = workload.answers(rows)
    with pytest.raises(ValueError, match="wrong answers"):
        workload.check(rows, outputs[:2])
    with pytest.raises(ValueError, match="wrong answers"):
        workload.check(rows, np.roll(outputs, 1, axis=0))


async def test_the_codec_benchmark_gives_rates() -> None:
    measured = await codec_bench.run(quick=True)
    assert [row.measurement.name for row in compare(measured)] == ["codec_messages", "codec_frames_256"]
    assert all(measurement.value > 0 for measurement in measured)


@pytest.mark.slow
async def test_the_bare_stream_carries_bytes_between_two_processes() -> None:
    measured = await bare_stream.run(20)
    assert set(measured) == {bare_stream.RTT_P50, bare_stream.RTT_P99, bare_stream.MB_PER_S}
    assert 0 < measured[bare_stream.RTT_P50] <= measured[bare_stream.RTT_P99]
    assert measured[bare_stream.MB_PER_S] > 0


def test_an_unknown_benchmark_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["run.py", "codec", "coffee"])
    with pytest.raises(SystemExit) as ended:
        run.main()
    assert ended.value.code == 2
    assert "no benchmark is called coffee" in capsys.readouterr().err
