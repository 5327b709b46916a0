"""The processor with its compute in a thread of this process: what goes in, what comes out, what is refused."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil
import pytest

from dtesn_api.spec import BatchConfiguration, ModelConfiguration
from dtesn_api.wire import BatchMetricsResponse, BatchProcessRequest, ProcessRequest, ProcessResponse
from dtesn_sidecar.errors import DeadlineExceeded, Draining, InvalidInput, NotFound, QueueFull, RequestTooLarge
from dtesn_sidecar.load.tracker import ServerLoadTracker
from dtesn_sidecar.model.backend import BackendUnavailable
from dtesn_sidecar.model.inputs import parse_input
from dtesn_sidecar.model.trees import Tree
from dtesn_sidecar.processor import DTESNProcessor

MODEL = ModelConfiguration(membrane_depth=3, esn_size=32, max_nodes=500)
PATIENT = BatchConfiguration(min_timeout=200)  # what names no timeout does not depend on how fast this machine is


@pytest.fixture
async def processor(tmp_path: Path, started: Callable[[], set[psutil.Process]]) -> AsyncIterator[DTESNProcessor]:
    async with DTESNProcessor(MODEL, batch_config=PATIENT, weights_folder=tmp_path) as processor:
        yield processor
    assert os.listdir(tmp_path) == []
    assert not started()


async def features(processor: DTESNProcessor, text: object, **options: Any) -> np.ndarray[Any, Any]:
    result = await processor.process_with_dynamic_batching(text, output="features", **options)
    output = result.processed_output
    return np.asarray(output.features).reshape(output.shape)


async def test_an_answer_says_what_was_computed_and_with_which_network(processor: DTESNProcessor) -> None:
    result = await processor.process_with_dynamic_batching("hello")
    output = result.processed_output
    assert (output.output, output.nodes, output.height) == ("summary", 5, 4)
    assert (output.model.name, output.model.seed, output.model.membrane_depth, output.model.esn_size) == ("dtesn", 42, 3, 32)
    assert isinstance(output.summary, list)
    assert len(output.summary) == 3
    assert output.features is msgspec.UNSET
    timing = result.timing
    assert timing.total * 1000 == result.processing_time_ms
    assert timing.total >= timing.queue + timing.compute >= timing.compute > 0
    assert timing.build == 0


async def test_starting_twice_at_once_starts_once(tmp_path: Path) -> None:
    processor = DTESNProcessor(MODEL, batch_config=PATIENT, weights_folder=tmp_path)
    await asyncio.gather(processor.start_batch_manager(), processor.start_batch_manager())
    try:
        assert [thread.name for thread in threading.enumerate() if thread.name.startswith("dtesn-compute")] == ["dtesn-compute-0"]
        assert len(os.listdir(tmp_path)) == 1
    finally:
        await processor.stop_batch_manager()


async def test_the_summary_is_that_of_the_features(processor: DTESNProcessor) -> None:
    full = await features(processor, "hello")
    summary = (await processor.process_with_dynamic_batching("hello")).processed_output.summary
    assert isinstance(summary, list)
    for layer, (root, mean) in zip(summary, full, strict=True):
        assert layer.root.norm == pytest.approx(np.linalg.norm(root), rel=1e-5)
        assert layer.mean.norm == pytest.approx(np.linalg.norm(mean), rel=1e-5)
        assert layer.root.mean == pytest.approx(root.mean(), rel=1e-4, abs=1e-6)
        assert layer.mean.mean == pytest.approx(mean.mean(), rel=1e-4, abs=1e-6)


async def test_a_shallower_request_gets_the_first_layers_of_the_model(processor: DTESNProcessor) -> None:
    full = await features(processor, "hello")
    np.testing.assert_allclose(await features(processor, "hello", membrane_depth=2), full[:2], atol=2e-6)
    np.testing.assert_allclose((await features(processor, "hello", membrane_depth=5))[:3], full, atol=2e-6)


async def test_depths_and_lengths_share_a_batch_and_every_answer_is_its_own(processor: DTESNProcessor) -> None:
    texts = [f"{'text ' * (n % 7)}{n}" for n in range(40)]
    together = await asyncio.gather(*(features(processor, text, membrane_depth=1 + n % 3) for n, text in enumerate(texts)))
    for n, text in enumerate(texts):
        alone = await features(processor, text, membrane_depth=1 + n % 3, enable_batching=False)
        np.testing.assert_allclose(together[n], alone, atol=2e-6)


async def test_what_is_said_about_batching_is_measured(processor: DTESNProcessor) -> None:
    lone = await processor.process_with_dynamic_batching("alone", enable_batching=False)
    assert not lone.engine_integration.batch_processed
    assert not lone.engine_integration.dynamic_batching
    assert lone.timing.batch_items == 1
    results = await asyncio.gather(*(processor.process_with_dynamic_batching(f"{n}" * 20) for n in range(30)))
    for result in results:
        assert result.engine_integration.batch_processed == (result.timing.batch_items > 1)
        assert result.engine_integration.dynamic_batching
    assert any(result.engine_integration.batch_processed for result in results)
    assert all(result.engine_integration.batch_manager_active for result in results)


async def test_without_dynamic_batching_every_request_is_a_batch_of_one(tmp_path: Path) -> None:
    async with DTESNProcessor(MODEL, enable_dynamic_batching=False, batch_config=PATIENT, weights_folder=tmp_path) as processor:
        results = await asyncio.gather(*(processor.process_with_dynamic_batching(f"{n}" * 20) for n in range(10)))
        assert {result.timing.batch_items for result in results} == {1}
        assert not any(result.engine_integration.dynamic_batching for result in results)
        assert not processor.batch_metrics().batching_enabled


async def test_another_size_is_built_on_demand_and_kept(processor: DTESNProcessor) -> None:
    first = await processor.process_with_dynamic_batching("hello", esn_size=64, membrane_depth=2, output="features")
    assert first.processed_output.shape == [2, 2, 64]
    assert first.timing.build > 0
    assert processor.model_bytes > 0
    again = await processor.process_with_dynamic_batching("hello", esn_size=64, membrane_depth=1)
    assert again.timing.build == 0


async def test_a_field_out_of_range_is_refused_by_name(processor: DTESNProcessor) -> None:
    for field, value in (("membrane_depth", 17), ("timeout", 301), ("input_format", "yaml")):
        options: dict[str, Any] = {field: value}
        with pytest.raises(InvalidInput) as refused:
            await processor.process_with_dynamic_batching("hello", **options)
        assert refused.value.field == field


async def test_an_unknown_model_is_not_found(processor: DTESNProcessor) -> None:
    await processor.process_with_dynamic_batching("hello", model="dtesn")
    with pytest.raises(NotFound):
        await processor.process_with_dynamic_batching("hello", model="other")


async def test_an_input_beyond_max_nodes_is_too_large(processor: DTESNProcessor) -> None:
    with pytest.raises(RequestTooLarge, match="501 nodes"):
        await processor.process_with_dynamic_batching("x" * 501)


async def test_what_the_queue_cannot_take_is_refused_by_the_name_of_its_field(tmp_path: Path) -> None:
    model = ModelConfiguration(membrane_depth=1, esn_size=32, max_nodes=1000)
    batching = BatchConfiguration(min_timeout=200, max_batch_nodes=1024, max_queue_nodes=1024)
    async with DTESNProcessor(model, batch_config=batching, weights_folder=tmp_path) as processor:
        with pytest.raises(RequestTooLarge) as refused:  # at twice the size a node counts twice
            await processor.process_with_dynamic_batching("x" * 600, esn_size=64)
        assert (refused.value.field, refused.value.value) == ("input_data", "1200 nodes")
        outcomes = await processor.process_batch(["a", "x" * 600], esn_size=64)
    assert [outcome.status for outcome in outcomes] == ["success", "error"]
    assert isinstance(outcomes[1].error, RequestTooLarge)
    assert outcomes[1].error.field == "inputs[1]"


async def test_a_model_beyond_the_bound_is_refused_before_it_is_built(tmp_path: Path) -> None:
    model = ModelConfiguration(membrane_depth=1, esn_size=32, max_model_bytes=1_000_000)
    async with DTESNProcessor(model, weights_folder=tmp_path) as processor:
        with pytest.raises(InvalidInput, match="1000000"):
            await processor.process_with_dynamic_batching("hello", esn_size=4096)


async def test_a_build_counts_against_the_deadline(processor: DTESNProcessor) -> None:
    with pytest.raises(DeadlineExceeded):
        await processor.process_with_dynamic_batching("hello", esn_size=4096, timeout=0.01)


async def test_a_parsed_tree_is_an_input_too(processor: DTESNProcessor) -> None:
    np.testing.assert_allclose(await features(processor, parse_input("hello")), await features(processor, "hello"), rtol=0, atol=2e-6)


async def test_double_precision_is_computed_and_answered_in_single(tmp_path: Path) -> None:
    double = ModelConfiguration(membrane_depth=3, esn_size=32, dtype="float64")
    async with DTESNProcessor(MODEL) as single, DTESNProcessor(double, weights_folder=tmp_path) as processor:
        found = await features(processor, "hello world")
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, await features(single, "hello world"), atol=1e-5)


# Bulk calls.


async def test_a_bulk_call_answers_in_order_each_with_its_own_status(processor: DTESNProcessor) -> None:
    broken = InvalidInput("broken elsewhere")
    outcomes = await processor.process_batch(["a", 7, "x" * 501, "bcd", broken], output="features")
    assert [(outcome.index, outcome.status) for outcome in outcomes] == [
        (0, "success"),
        (1, "error"),
        (2, "error"),
        (3, "success"),
        (4, "error"),
    ]
    assert isinstance(outcomes[1].error, InvalidInput)
    assert outcomes[1].error.field == "inputs[1]"
    assert isinstance(outcomes[2].error, RequestTooLarge)
    assert outcomes[4].error is broken
    for index, text in ((0, "a"), (3, "bcd")):
        result = outcomes[index].result
        assert result is not None
        np.testing.assert_allclose(np.asarray(result.processed_output.features), (await features(processor, text)).reshape(-1), atol=2e-6)


@pytest.mark.parametrize("balanced", [True, False])
async def test_a_bulk_call_of_many_chunks_loses_and_mixes_nothing(
    processor: DTESNProcessor, balanced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dtesn_sidecar.bulk._CHUNK_ITEMS", 16)
    inputs = ["y" * (1 + n % 50) for n in range(70)]
    outcomes = await processor.process_batch(inputs, enable_load_balancing=balanced, priority=2)
    assert [outcome.index for outcome in outcomes] == list(range(70))
    for text, outcome in zip(inputs, outcomes, strict=True):
        assert outcome.result is not None
        assert outcome.result.processed_output.nodes == len(text)


async def test_a_stream_tells_each_outcome_once_and_its_closing_withdraws_the_rest(processor: DTESNProcessor) -> None:
    stream = processor.stream_batch(["z" * 400] * 60)
    seen = [(await anext(stream)).index for _ in range(3)]
    assert len(set(seen)) == 3
    await stream.aclose()
    assert processor.batch_metrics().server_load["active_requests"] == 0


async def test_an_answer_too_large_to_hold_is_refused_and_streamed_instead(
    processor: DTESNProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dtesn_sidecar.bulk.MAX_FLOATS", 2 * 3 * 32 * 4)
    assert len(await processor.process_batch(["a"] * 4, output="features")) == 4
    with pytest.raises(RequestTooLarge):
        await processor.process_batch(["a"] * 5, output="features")
    assert len([outcome async for outcome in processor.stream_batch(["a"] * 5, output="features")]) == 5


async def test_an_empty_bulk_call_is_refused(processor: DTESNProcessor) -> None:
    with pytest.raises(InvalidInput, match="empty"):
        await processor.process_batch([])


async def test_the_deadline_of_a_bulk_call_is_for_all_of_it(processor: DTESNProcessor) -> None:
    outcomes = await processor.process_batch(["z" * 500] * 500, timeout=0.05)
    assert len(outcomes) == 500
    assert all(outcome.status == "success" or outcome.error is not None for outcome in outcomes)
    errors = [outcome.error for outcome in outcomes if outcome.error is not None]
    assert errors  # each alone would be in time
    assert all(isinstance(error, DeadlineExceeded | QueueFull) for error in errors)  # too late, or foreseen to be


# Bodies.


@pytest.fixture
def helped(processor: DTESNProcessor, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The functions that the helper process was called for."""
    called: list[str] = []
    call = processor._engine.helper.call

    async def noted(function: Any, *arguments: Any, **options: Any) -> Any:
        called.append(function.__name__)
        return await call(function, *arguments, **options)

    monkeypatch.setattr(processor._engine.helper, "call", noted)
    return called


@pytest.mark.parametrize("length", [10, 400])
async def test_a_body_is_decoded_to_the_same_request_here_and_in_the_helper(
    processor: DTESNProcessor, length: int, helped: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    body = msgspec.json.encode({"input_data": "t" * length, "priority": 2, "timeout": 1.5, "output": "features"})
    monkeypatch.setattr("dtesn_sidecar.compute.offload.LARGE_BODY", 200)
    request = await processor.decode(body, ProcessRequest)
    assert isinstance(request.input_data, Tree)
    assert request.input_data.nodes == length
    assert (request.priority, request.timeout, request.output, request.esn_size) == (2, 1.5, "features", None)
    assert helped == (["decode_there"] if length > 200 else [])


@pytest.mark.parametrize("padding", [0, 70_000])
async def test_each_input_of_a_body_has_its_own_tree_or_error(processor: DTESNProcessor, helped: list[str], padding: int) -> None:
    inputs = b'["a", 7, {"labels": [1, 2], "parents": [-1, 0]}, "%b", [1.0, NaN]]' % (b"x" * 501)
    request = await processor.decode(b'{"inputs": %b}' % inputs + b" " * padding, BatchProcessRequest)
    assert helped == (["decode_there"] if padding else [])
    tree, wrong, flat, large, nan = request.inputs
    assert isinstance(nan, InvalidInput)
    assert nan.field == "inputs[4][1]"
    assert (large.field, large.value, large.expected) == ("inputs[3]", "501 nodes", "at most 500 nodes")
    assert tree.nodes == 1
    assert flat.nodes == 2
    assert isinstance(wrong, InvalidInput)
    assert isinstance(large, RequestTooLarge)


@pytest.mark.parametrize("padding", [0, 70_000])
@pytest.mark.parametrize("body", [b"{", b'{"input_data": "a", "priority": 9, "other": 1}', b'{"input_data": 7}', b'{"input_data": "\xff"}'])
async def test_a_bad_body_is_refused_alike_here_and_in_the_helper(processor: DTESNProcessor, body: bytes, padding: int) -> None:
    with pytest.raises(Exception) as here:  # noqa: PT011 - which one is compared below
        await processor.decode(body, ProcessRequest)
    with pytest.raises(Exception) as there:  # noqa: PT011
        await processor.decode(body + b" " * padding, ProcessRequest)
    assert type(there.value) is type(here.value)
    assert getattr(there.value, "problems", None) == getattr(here.value, "problems", None)


@pytest.mark.parametrize(("size", "depth"), [(32, 3), (1024, 9)])
async def test_features_are_written_as_the_shortest_text_of_their_float32(
    processor: DTESNProcessor, helped: list[str], size: int, depth: int
) -> None:
    result = await processor.process_with_dynamic_batching("hello", esn_size=size, membrane_depth=depth, output="features", timeout=250)
    response = ProcessResponse(result=result.body(), performance_metrics=processor.performance_metrics())
    text = await processor.encode(response)
    assert helped == (["encode_there"] if 2 * depth * size > 16_384 else [])
    numbers = msgspec.json.decode(text)["result"]["processed_output"]["features"]
    assert len(numbers) == 2 * depth * size
    np.testing.assert_array_equal(np.array(numbers, dtype=np.float32), result.processed_output.features)
    assert len(text) < 15 * len(numbers) + 1000
    msgspec.json.decode(text, type=ProcessResponse)


# Figures and life.


async def test_the_metrics_are_those_of_the_work_done(processor: DTESNProcessor) -> None:
    await asyncio.gather(*(processor.process_with_dynamic_batching("hello") for _ in range(20)))
    metrics = processor.batch_metrics()
    assert metrics.metrics.requests_processed >= 20
    assert metrics.pending_requests == 0
    assert metrics.metrics.success_rate == 1.0
    assert not metrics.metrics.circuit_breaker_open
    assert metrics.server_load == {"active_requests": 0}
    msgspec.json.decode(await processor.encode(metrics), type=BatchMetricsResponse)


@pytest.mark.parametrize("form", ["tracker", "method", "function"])
async def test_the_load_is_shown_by_source(form: str, tmp_path: Path) -> None:
    async with ServerLoadTracker() as tracker:
        tracker.add_load_provider(lambda: None, name="absent")

        def constant() -> float:
            return 0.25

        source: Any = {"tracker": tracker, "method": tracker.get_current_load, "function": constant}[form]
        async with DTESNProcessor(MODEL, server_load_tracker=source, weights_folder=tmp_path) as processor:
            load: Any = processor.batch_metrics().server_load
            if form == "function":
                assert load["constant"].value == 0.25
            else:
                assert load["absent"].value is None
                assert load["absent"].reason


async def test_figures_beside_an_answer_follow_the_configuration(processor: DTESNProcessor) -> None:
    processor.reconfigure(BatchConfiguration(min_timeout=200, target_batch_size=3, max_batch_size=5, strategy="fixed"))
    await asyncio.gather(*(processor.process_with_dynamic_batching("hello" * 20) for _ in range(20)))
    results = await asyncio.gather(*(processor.process_with_dynamic_batching("hello" * 20) for _ in range(20)))
    assert max(result.timing.batch_items for result in results) <= 5
    assert processor.performance_metrics().batching_enabled


async def test_a_processor_that_is_not_running_refuses(tmp_path: Path) -> None:
    processor = DTESNProcessor(MODEL, batch_config=PATIENT, weights_folder=tmp_path)
    for _ in range(2):
        with pytest.raises(Draining):
            await processor.process_with_dynamic_batching("hello")
        await processor.start_batch_manager()
        await processor.start_batch_manager()
        await processor.process_with_dynamic_batching("hello", esn_size=64, membrane_depth=1)
        await processor.stop_batch_manager()
        await processor.stop_batch_manager()


async def test_draining_answers_all_that_was_accepted_and_refuses_the_rest(processor: DTESNProcessor) -> None:
    accepted = [asyncio.ensure_future(processor.process_with_dynamic_batching("hello" * 50)) for _ in range(30)]
    building = asyncio.ensure_future(processor.process_with_dynamic_batching("hello", esn_size=96))
    await asyncio.sleep(0)
    await processor.drain()
    assert all(task.done() for task in [*accepted, building])
    await asyncio.gather(*accepted, building)
    with pytest.raises(Draining):
        await processor.process_with_dynamic_batching("hello")


async def test_a_backend_that_is_not_there_fails_the_start_and_nothing_is_left(tmp_path: Path) -> None:
    processor = DTESNProcessor(MODEL, backend="cupy", weights_folder=tmp_path)
    try:
        await processor.start_batch_manager()
    except BackendUnavailable:
        assert os.listdir(tmp_path) == []
    else:
        assert processor.backend == "cupy"
        await processor.stop_batch_manager()


def test_a_negative_number_of_workers_is_refused() -> None:
    with pytest.raises(InvalidInput, match="workers is -1"):
        DTESNProcessor(workers=-1)
