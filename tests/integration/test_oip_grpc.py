"""The Open Inference Protocol over gRPC: the unchanged clients of Triton against a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
import requests
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tests.integration.http_client import client, eventually, metric
from tests.integration.http_server import LONG, Server
from tests.integration.oip import MICROSECONDS, SERIES, TEXTS, assert_close, expected, running_rpc, write_readout
from tritonclient.utils import InferenceServerException

from dtesn_sidecar.oip.rpc import open_inference_pb2 as pb

pytestmark = pytest.mark.timeout(300)

INFER = "/inference.GRPCInferenceService/ModelInfer"
SLOW = {"DTESN_MODEL_ESN_SIZE": "256", "DTESN_MODEL_MEMBRANE_DEPTH": "4"}


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[Server, str]]:
    with running_rpc({"DTESN_SIDECAR_MAX_BODY_BYTES": "2000000"}) as served:
        yield served


@pytest.fixture(scope="module")
def server(both: tuple[Server, str]) -> Server:
    return both[0]


@pytest.fixture(scope="module")
def address(both: tuple[Server, str]) -> str:
    return both[1]


@pytest.fixture(scope="module")
def sync(address: str) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(address) as client:
        yield client


@pytest.fixture
async def aio(address: str) -> AsyncIterator[triton_aio.InferenceServerClient]:
    async with triton_aio.InferenceServerClient(address) as client:
        yield client


def text(*values: str) -> triton.InferInput:
    tensor = triton.InferInput("TEXT", [len(values)], "BYTES")
    tensor.set_data_from_numpy(np.array([value.encode() for value in values], dtype=object))
    return tensor


def series(array: np.ndarray) -> triton.InferInput:
    tensor = triton.InferInput("SERIES", list(array.shape), "FP32")
    tensor.set_data_from_numpy(array)
    return tensor


def call(address: str, body: bytes, metadata: tuple[tuple[str, str], ...] = (), **keywords: object) -> grpc.Call:
    """A call of our own: its answer or its error, with the metadata that came with it."""
    with grpc.insecure_channel(address, options=[("grpc.max_send_message_length", -1)]) as channel:
        method = channel.unary_unary(INFER)
        try:
            return method.with_call(body, metadata=metadata, timeout=LONG, **keywords)[1]
        except grpc.RpcError as error:
            return error


# -- metadata and health -------------------------------------------------------------------------------------------------


def test_health_and_metadata_are_those_of_rest(server: Server, sync: triton.InferenceServerClient) -> None:
    assert sync.is_server_live()
    assert sync.is_server_ready()
    assert sync.is_model_ready("dtesn")
    assert sync.is_model_ready("dtesn", "1")
    rest = requests.get(f"{server.url}/v2", timeout=LONG).json()
    assert sync.get_server_metadata(as_json=True) == rest
    model = requests.get(f"{server.url}/v2/models/dtesn", timeout=LONG).json()
    for of_version in ("", "1"):
        found = sync.get_model_metadata("dtesn", of_version)
        assert {"name": found.name, "versions": list(found.versions), "platform": found.platform} == {
            name: model[name] for name in ("name", "versions", "platform")
        }
        for ours, theirs in ((found.inputs, model["inputs"]), (found.outputs, model["outputs"])):
            assert [{"name": each.name, "datatype": each.datatype, "shape": list(each.shape)} for each in ours] == theirs


async def test_the_asynchronous_client_sees_the_same(aio: triton_aio.InferenceServerClient, sync: triton.InferenceServerClient) -> None:
    assert await aio.is_server_live()
    assert await aio.is_server_ready()
    assert await aio.is_model_ready("dtesn")
    assert await aio.get_model_metadata("dtesn") == sync.get_model_metadata("dtesn")


# -- answers -------------------------------------------------------------------------------------------------------------


def test_texts_get_the_features_of_the_products_own_endpoint(server: Server, sync: triton.InferenceServerClient) -> None:
    answer = sync.infer("dtesn", [text(*TEXTS)], request_id="7", timeout=MICROSECONDS)
    assert answer.get_response().id == "7"
    assert_close(answer.as_numpy("FEATURES"), expected(server, TEXTS))


async def test_series_get_the_features_of_the_products_own_endpoint(server: Server, aio: triton_aio.InferenceServerClient) -> None:
    outputs = [triton.InferRequestedOutput("FEATURES")]
    answer = await aio.infer("dtesn", [series(SERIES)], outputs=outputs, model_version="1", timeout=MICROSECONDS)
    assert_close(answer.as_numpy("FEATURES"), expected(server, SERIES.tolist()))


def test_typed_contents_are_read_as_raw_ones(server: Server, sync: triton.InferenceServerClient, address: str) -> None:
    contents = pb.InferTensorContents(bytes_contents=[each.encode() for each in TEXTS])
    request = pb.ModelInferRequest(
        model_name="dtesn",
        inputs=[pb.ModelInferRequest.InferInputTensor(name="TEXT", datatype="BYTES", shape=[len(TEXTS), 1], contents=contents)],
    )
    with grpc.insecure_channel(address) as channel:
        answer = pb.ModelInferResponse.FromString(channel.unary_unary(INFER)(request.SerializeToString(), timeout=LONG))
    found = np.frombuffer(answer.raw_output_contents[0], dtype=np.float32).reshape(list(answer.outputs[0].shape))
    assert_close(found, expected(server, TEXTS))


def test_a_large_message_is_read_in_another_process(server: Server, sync: triton.InferenceServerClient) -> None:
    rows = np.random.default_rng(1).normal(size=(200, 30, 4)).astype(np.float32)
    assert rows.nbytes > 64 << 10
    found = sync.infer("dtesn", [series(rows)], timeout=MICROSECONDS).as_numpy("FEATURES")
    assert_close(found[[0, 199]], expected(server, rows[[0, 199]].tolist()))


async def test_priority_depth_and_size_are_parameters(server: Server, aio: triton_aio.InferenceServerClient) -> None:
    async with client(server) as http:
        before = await metric(http, "dtesn_requests_total", priority="0", outcome="ok")
        answer = await aio.infer(
            "dtesn", [text("a", "b")], priority=1, timeout=MICROSECONDS, parameters={"membrane_depth": 1, "esn_size": 32}
        )
        assert answer.as_numpy("FEATURES").shape == (2, 1, 2, 32)
        assert await metric(http, "dtesn_requests_total", priority="0", outcome="ok") == before + 2


def test_a_classifier_answers_with_labels_and_scores(tmp_path: Path) -> None:
    labels = ("ja", "nein", "vielleicht")
    with running_rpc(write_readout(tmp_path, labels)) as (server, address), triton.InferenceServerClient(address) as sync:
        answer = sync.infer("dtesn", [text(*TEXTS)], timeout=MICROSECONDS)
        found = [label.decode() for label in answer.as_numpy("PREDICTION")]
        own = [
            requests.post(f"{server.url}/dtesn/process", json={"input_data": each, "timeout": LONG}, timeout=LONG).json() for each in TEXTS
        ]
        assert found == [each["result"]["processed_output"]["prediction"] for each in own]
        assert answer.as_numpy("SCORES").shape == (len(TEXTS), 3)
        assert answer.get_output("SCORES").parameters["labels"].string_param == '["ja","nein","vielleicht"]'


# -- errors --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keywords", "code", "said"),
    [
        ({"model_name": "other"}, "NOT_FOUND", "there is no model 'other'"),
        ({"model_version": "2"}, "NOT_FOUND", "no version '2'"),
        ({"inputs": []}, "INVALID_ARGUMENT", "inputs is of 0 tensors"),
        ({"inputs": [text("a", "")]}, "INVALID_ARGUMENT", r"TEXT\[1\]"),
        ({"inputs": [series(np.full((1, 1, 1), np.inf, dtype=np.float32))]}, "INVALID_ARGUMENT", r"SERIES\[0\]\[0\]\[0\] is inf"),
        ({"inputs": [text("a" * 5000)]}, "INVALID_ARGUMENT", r"TEXT\[0\]"),
        ({"outputs": [triton.InferRequestedOutput("LOGITS")]}, "INVALID_ARGUMENT", r"outputs\[0\].name"),
        ({"outputs": [triton.InferRequestedOutput("FEATURES", class_count=2)]}, "INVALID_ARGUMENT", "classification"),
        ({"priority": 4}, "INVALID_ARGUMENT", "parameters.priority is 4"),
        ({"sequence_id": 4}, "INVALID_ARGUMENT", "parameters.sequence_"),
        ({"parameters": {"esn_size": 31}}, "INVALID_ARGUMENT", "esn_size is 31"),
        ({"compression_algorithm": "gzip"}, "UNIMPLEMENTED", "gzip"),
    ],
)
def test_what_is_wrong_is_a_status_that_the_client_understands(
    sync: triton.InferenceServerClient, keywords: dict[str, object], code: str, said: str
) -> None:
    with pytest.raises(InferenceServerException, match=said) as caught:
        sync.infer(**({"model_name": "dtesn", "inputs": [text("a")]} | keywords))
    assert caught.value.status() == f"StatusCode.{code}"


def test_a_row_that_has_no_time_says_which_and_when_to_come_again(address: str) -> None:
    tensor = pb.ModelInferRequest.InferInputTensor(
        name="TEXT", datatype="BYTES", shape=[2], contents=pb.InferTensorContents(bytes_contents=[b"a" * 4000] * 2)
    )
    request = pb.ModelInferRequest(model_name="dtesn", inputs=[tensor])
    request.parameters["timeout"].int64_param = 1
    error = call(address, request.SerializeToString())
    assert error.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED)
    assert "of 2: " in error.details()
    assert int(dict(error.trailing_metadata())["grpc-retry-pushback-ms"]) >= 1000


def test_noise_is_the_clients_error_and_what_is_not_served_is_unimplemented(address: str) -> None:
    assert call(address, b"\xff\xff").code() is grpc.StatusCode.INVALID_ARGUMENT
    with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/inference.GRPCInferenceService/RepositoryIndex")(b"", timeout=LONG)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_message_beyond_the_bound_is_refused(address: str) -> None:
    error = call(address, bytes(2_100_000))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in error.details()


def test_a_compressed_bomb_is_not_opened(server: Server, address: str) -> None:
    def peak() -> int:
        return int(Path(f"/proc/{server.process.pid}/status").read_text().partition("VmHWM:")[2].split()[0]) << 10

    bomb = pb.ModelInferRequest(model_name="dtesn", raw_input_contents=[bytes(100 << 20)]).SerializeToString()
    before = peak()
    assert call(address, bomb, compression=grpc.Compression.Gzip).code() is grpc.StatusCode.UNIMPLEMENTED
    assert peak() - before < 50 << 20


# -- the life of a call --------------------------------------------------------------------------------------------------


def test_ids_and_times_come_with_the_answer(address: str) -> None:
    tensor = pb.ModelInferRequest.InferInputTensor(
        name="TEXT", datatype="BYTES", shape=[1], contents=pb.InferTensorContents(bytes_contents=[b"a"])
    )
    body = pb.ModelInferRequest(model_name="dtesn", inputs=[tensor]).SerializeToString()
    found = dict(call(address, body, (("x-request-id", "mine"),)).trailing_metadata())
    assert found["x-request-id"] == "mine"
    assert "queue;dur=" in found["server-timing"]
    assert dict(call(address, b"\xff", (("x-request-id", "mine"),)).trailing_metadata())["x-request-id"] == "mine"


async def test_what_the_client_no_longer_waits_for_is_not_computed() -> None:
    with running_rpc(SLOW) as (server, address):
        async with client(server) as http, triton_aio.InferenceServerClient(address) as aio:
            with pytest.raises(InferenceServerException) as caught:
                await aio.infer("dtesn", [text(*("x" * 4000 for _ in range(512)))], client_timeout=0.5)
            assert caught.value.status() in ("StatusCode.DEADLINE_EXCEEDED", "StatusCode.RESOURCE_EXHAUSTED")
            await eventually(lambda: metric(http, "dtesn_pending_requests"), lambda queued: queued == 0)
            assert await metric(http, "dtesn_requests_total", outcome="ok") < 512
            assert (await aio.infer("dtesn", [text("a")], client_timeout=LONG)).as_numpy("FEATURES").shape == (1, 4, 2, 256)


def test_a_call_without_a_deadline_has_the_servers_default(tmp_path: Path) -> None:
    file = tmp_path / "batcher.yaml"
    file.write_text("batching: {defaultTimeoutSeconds: 0.001, minTimeoutSeconds: 0.001}\n")
    environ = SLOW | {"DTESN_BATCHING_MIN_TIMEOUT_SECONDS": "0.001"}
    with running_rpc(environ, "--config", str(file)) as (_, address), triton.InferenceServerClient(address) as sync:
        with pytest.raises(InferenceServerException) as caught:
            sync.infer("dtesn", [text("x" * 4000)])
        assert caught.value.status() in ("StatusCode.DEADLINE_EXCEEDED", "StatusCode.RESOURCE_EXHAUSTED")
        sync.infer("dtesn", [text("x" * 4000)], client_timeout=LONG)
        sync.infer("dtesn", [text("x" * 4000)], timeout=MICROSECONDS)


async def test_a_call_that_is_cancelled_withdraws_its_rows() -> None:
    with running_rpc(SLOW) as (server, address):
        async with client(server) as http, triton_aio.InferenceServerClient(address) as aio:
            rows = text(*("x" * 4000 for _ in range(256)))
            waiting = asyncio.create_task(aio.infer("dtesn", [rows]))
            await eventually(lambda: metric(http, "dtesn_pending_requests"), lambda queued: queued > 0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            await eventually(lambda: metric(http, "dtesn_cancellations_total"), lambda gone: gone > 0)
            await eventually(lambda: metric(http, "dtesn_pending_requests"), lambda queued: queued == 0)
            await eventually(lambda: metric(http, "dtesn_grpc_calls_total", method="ModelInfer", code="CANCELLED"), lambda n: n == 1)


async def test_what_was_accepted_is_answered_when_the_server_ends() -> None:
    with running_rpc(SLOW) as (server, address):
        async with client(server) as http, triton_aio.InferenceServerClient(address) as aio:
            rows = text(*("x" * 1000 for _ in range(128)))  # more than are queued at once: some are submitted while it drains
            calls = [asyncio.create_task(aio.infer("dtesn", [rows])) for _ in range(2)]
            await eventually(lambda: metric(http, "dtesn_pending_requests"), lambda queued: queued > 8)
            server.terminate()

            async def refusal() -> str | None:
                try:
                    await aio.infer("dtesn", [text("late")])
                except InferenceServerException as error:
                    return error.status()
                return None

            assert await eventually(refusal, lambda status: status is not None) == "StatusCode.UNAVAILABLE"
            answers = await asyncio.gather(*calls)
            assert [answer.as_numpy("FEATURES").shape for answer in answers] == [(128, 4, 2, 256)] * 2
        assert await asyncio.to_thread(server.end) == 0
        assert '"message":"drained"' in server.log()


async def test_calls_at_once_share_batches_and_get_each_its_own_answer(server: Server, address: str) -> None:
    async with triton_aio.InferenceServerClient(address) as aio, client(server) as http:
        items = await metric(http, "dtesn_batch_items_total")
        batches = await metric(http, "dtesn_batches_total")
        answers = await asyncio.gather(*(aio.infer("dtesn", [text(f"call {i}")], request_id=str(i)) for i in range(200)))
        assert [answer.get_response().id for answer in answers] == [str(i) for i in range(200)]
        for i in (0, 100, 199):
            assert_close(answers[i].as_numpy("FEATURES"), expected(server, [f"call {i}"]))
        ran = await metric(http, "dtesn_batches_total") - batches
        assert ran < await metric(http, "dtesn_batch_items_total") - items


async def test_a_worker_that_dies_is_replaced_beside_the_threads_of_grpc() -> None:
    """gRPC has threads of its own, and a process with threads that forks may hang or complain; here workers are started without that."""
    with running_rpc(clean=False) as (server, address):
        async with triton_aio.InferenceServerClient(address) as aio, client(server) as http:
            await aio.infer("dtesn", [text("before")])
            for worker in psutil.Process(server.process.pid).children():
                worker.kill()
            await eventually(lambda: metric(http, "dtesn_worker_restarts_total"), lambda restarted: restarted > 0)

            async def answered() -> bool:
                try:
                    return (await aio.infer("dtesn", [text("after")])).as_numpy("FEATURES").shape == (1, 2, 2, 64)
                except InferenceServerException as error:
                    if error.status() != "StatusCode.UNAVAILABLE":  # which it is until there is a worker again
                        raise
                    return False

            await eventually(answered, bool)
        server.terminate()
        assert await asyncio.to_thread(server.end) == 0
        assert "fork" not in server.log()


async def test_while_it_leaves_it_is_not_ready_and_still_answers() -> None:
    with running_rpc({"DTESN_SIDECAR_DRAIN_DELAY_SECONDS": "600"}) as (server, address):
        async with triton_aio.InferenceServerClient(address) as aio:
            server.drain()
            await eventually(aio.is_server_ready, lambda ready: not ready)
            assert not await aio.is_model_ready("dtesn")
            assert await aio.is_server_live()
            assert (await aio.infer("dtesn", [text("a")])).as_numpy("FEATURES").shape == (1, 2, 2, 64)


def test_the_log_and_the_metrics_have_each_call_and_nothing_of_the_content() -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with running_rpc() as (server, address):
        with triton.InferenceServerClient(address) as sync:
            sync.infer("dtesn", [text("a secret text")], request_id="a secret id")
            with pytest.raises(InferenceServerException):
                sync.infer("secret", [text("a")], headers={"traceparent": trace})
        exposition = requests.get(f"{server.url}/metrics", timeout=LONG).text
        assert 'dtesn_grpc_calls_total{code="OK",method="ModelInfer"} 1.0' in exposition
        assert 'dtesn_grpc_calls_total{code="NOT_FOUND",method="ModelInfer"} 1.0' in exposition
        server.terminate()
        assert server.end() == 0
        calls = [record for record in server.records() if record["method"] == "gRPC"]
        assert [(record["route"], record["status"], record.get("code")) for record in calls] == [
            (INFER, "OK", None),
            (INFER, "NOT_FOUND", "not_found"),
        ]
        assert calls[0]["batch"] == 1
        assert calls[1]["trace_id"] == "0af7651916cd43dd8448eb211c80319c"
        assert "secret" not in server.log()
