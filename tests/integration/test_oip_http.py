"""The Open Inference Protocol over REST: the unchanged clients of Triton against a real server."""

from __future__ import annotations

import asyncio
import gzip
import json
import signal
from collections.abc import AsyncIterator, Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import requests
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tests.integration.http_client import client, eventually, metric
from tests.integration.http_server import LONG, Server, running
from tests.integration.oip import MICROSECONDS, SERIES, TEXTS, assert_close, expected, write_readout
from tritonclient.utils import InferenceServerException

pytestmark = pytest.mark.timeout(300)

MODEL = "/v2/models/dtesn"
INFER = f"{MODEL}/infer"
INPUTS = [{"name": "TEXT", "datatype": "BYTES", "shape": [-1]}, {"name": "SERIES", "datatype": "FP32", "shape": [-1, -1, -1]}]
FEATURES = {"name": "FEATURES", "datatype": "FP32", "shape": [-1, 2, 2, 64]}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running({"DTESN_SIDECAR_MAX_BODY_BYTES": "2000000"}) as server:
        yield server


@pytest.fixture(scope="module")
def sync(server: Server) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(f"127.0.0.1:{server.port}", network_timeout=LONG, connection_timeout=LONG) as client:
        yield client


@pytest.fixture
async def aio(server: Server) -> AsyncIterator[triton_aio.InferenceServerClient]:
    async with triton_aio.InferenceServerClient(f"127.0.0.1:{server.port}", conn_timeout=LONG) as client:
        yield client


def text(values: list[str], *, binary: bool = True, column: bool = False) -> triton.InferInput:
    array = np.array([value.encode() for value in values], dtype=object).reshape((-1, 1) if column else -1)
    tensor = triton.InferInput("TEXT", list(array.shape), "BYTES")
    tensor.set_data_from_numpy(array, binary_data=binary)
    return tensor


def series(array: np.ndarray, *, binary: bool = True) -> triton.InferInput:
    tensor = triton.InferInput("SERIES", list(array.shape), "FP32")
    tensor.set_data_from_numpy(array, binary_data=binary)
    return tensor


def plain(*texts: str, **more: object) -> dict[str, object]:
    return {"inputs": [{"name": "TEXT", "datatype": "BYTES", "shape": [len(texts)], "data": list(texts)}], **more}


# -- metadata and health -------------------------------------------------------------------------------------------------


def test_the_server_is_live_and_ready_and_says_what_it_is(sync: triton.InferenceServerClient) -> None:
    assert sync.is_server_live()
    assert sync.is_server_ready()
    assert sync.get_server_metadata() == {
        "name": "dtesn-batcher",
        "version": version("dtesn-batcher"),
        "extensions": ["binary_tensor_data", "parameters", "schedule_policy"],
    }


@pytest.mark.parametrize("of_version", ["", "1"])
def test_the_model_is_ready_and_describes_its_tensors(sync: triton.InferenceServerClient, of_version: str) -> None:
    assert sync.is_model_ready("dtesn", of_version)
    assert sync.get_model_metadata("dtesn", of_version) == {
        "name": "dtesn",
        "versions": ["1"],
        "platform": "dtesn",
        "inputs": INPUTS,
        "outputs": [FEATURES],
    }


async def test_the_asynchronous_client_sees_the_same(aio: triton_aio.InferenceServerClient, sync: triton.InferenceServerClient) -> None:
    assert await aio.is_server_live()
    assert await aio.is_server_ready()
    assert await aio.is_model_ready("dtesn")
    assert await aio.get_server_metadata() == sync.get_server_metadata()
    assert await aio.get_model_metadata("dtesn") == sync.get_model_metadata("dtesn")


@pytest.mark.parametrize(("model", "of_version"), [("other", ""), ("dtesn", "2")])
def test_another_model_or_version_is_not_there(sync: triton.InferenceServerClient, model: str, of_version: str) -> None:
    assert not sync.is_model_ready(model, of_version)
    for ask in (sync.get_model_metadata, lambda *named: sync.infer(named[0], [text(["a"])], named[1])):
        with pytest.raises(InferenceServerException, match="there is no") as caught:
            ask(model, of_version)
        assert caught.value.status() == "404"


# -- answers -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("column", [True, False])
def test_texts_get_the_features_of_the_products_own_endpoint(
    server: Server, sync: triton.InferenceServerClient, binary_in: bool, binary_out: bool, column: bool
) -> None:
    tensor = text(TEXTS, binary=binary_in, column=column)
    outputs = [triton.InferRequestedOutput("FEATURES", binary_data=binary_out)]
    answer = sync.infer("dtesn", [tensor], outputs=outputs, timeout=MICROSECONDS)
    found = answer.as_numpy("FEATURES")
    assert found.dtype == np.float32
    assert_close(found, expected(server, TEXTS))
    (described,) = answer.get_response()["outputs"]
    assert ("data" in described) is not binary_out


@pytest.mark.parametrize("binary", [True, False])
def test_series_get_the_features_of_the_products_own_endpoint(server: Server, sync: triton.InferenceServerClient, binary: bool) -> None:
    answer = sync.infer("dtesn", [series(SERIES, binary=binary)], model_version="1", timeout=MICROSECONDS)
    assert_close(answer.as_numpy("FEATURES"), expected(server, SERIES.tolist()))


async def test_the_asynchronous_client_gets_the_same_answers(server: Server, aio: triton_aio.InferenceServerClient) -> None:
    texts, numbers = await asyncio.gather(
        aio.infer("dtesn", [text(TEXTS)], timeout=MICROSECONDS), aio.infer("dtesn", [series(SERIES)], timeout=MICROSECONDS)
    )
    assert_close(texts.as_numpy("FEATURES"), expected(server, TEXTS))
    assert_close(numbers.as_numpy("FEATURES"), expected(server, SERIES.tolist()))


def test_large_requests_and_answers_are_those_of_small_ones(server: Server, sync: triton.InferenceServerClient) -> None:
    """Beyond 64 KiB a body, and beyond 16,384 numbers an answer, is read and written in another process."""
    rows = np.random.default_rng(1).normal(size=(200, 30, 4)).astype(np.float32)
    assert rows.nbytes > 64 << 10
    outputs = [triton.InferRequestedOutput("FEATURES", binary_data=False)]
    as_json = sync.infer("dtesn", [series(rows, binary=False)], outputs=outputs, timeout=MICROSECONDS).as_numpy("FEATURES")
    as_bytes = sync.infer("dtesn", [series(rows)], timeout=MICROSECONDS).as_numpy("FEATURES")
    assert as_json.size > 16_384
    assert_close(as_json, as_bytes)
    assert_close(as_bytes[[0, 199]], expected(server, rows[[0, 199]].tolist()))


def test_many_rows_are_read_in_another_process_however_short(sync: triton.InferenceServerClient) -> None:
    found = sync.infer("dtesn", [text(["a", "b"] * 600)], timeout=MICROSECONDS).as_numpy("FEATURES")
    for one in (0, 1):
        assert_close(found[one::2], np.broadcast_to(found[one], (600, 2, 2, 64)))


def test_depth_and_size_are_parameters(sync: triton.InferenceServerClient) -> None:
    answer = sync.infer("dtesn", [text(["a", "b"])], timeout=MICROSECONDS, parameters={"membrane_depth": 1, "esn_size": 32})
    assert answer.as_numpy("FEATURES").shape == (2, 1, 2, 32)


def test_the_id_is_echoed_and_left_out_where_there_was_none(sync: triton.InferenceServerClient) -> None:
    assert sync.infer("dtesn", [text(["a"])], request_id="order 7", timeout=MICROSECONDS).get_response()["id"] == "order 7"
    assert "id" not in sync.infer("dtesn", [text(["a"])], timeout=MICROSECONDS).get_response()


async def test_priorities_are_ours_less_one(server: Server, aio: triton_aio.InferenceServerClient) -> None:
    async with client(server) as http:
        for theirs, ours in ((1, "0"), (2, "1"), (3, "2"), (0, "1")):
            before = await metric(http, "dtesn_requests_total", priority=ours, outcome="ok")
            await aio.infer("dtesn", [text(["a"])], priority=theirs, timeout=MICROSECONDS)
            assert await metric(http, "dtesn_requests_total", priority=ours, outcome="ok") == before + 1


async def test_rows_of_one_request_share_batches(server: Server) -> None:
    async with client(server) as http, http.post(INFER, json=plain(*(f"row {i}" for i in range(32)))) as answer:
        assert answer.status == 200
        described = dict(part.partition(";")[::2] for part in answer.headers["Server-Timing"].split(", "))
        assert int(described["batch"].removeprefix('desc="').removesuffix('"')) > 1
        assert (await answer.json())["outputs"][0]["shape"] == [32, 2, 2, 64]


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_requests_are_read(server: Server, sync: triton.InferenceServerClient, algorithm: str) -> None:
    answer = sync.infer(
        "dtesn",
        [text(TEXTS)],
        request_compression_algorithm=algorithm,
        response_compression_algorithm=algorithm,
        timeout=MICROSECONDS,
    )
    assert_close(answer.as_numpy("FEATURES"), expected(server, TEXTS))


# -- errors --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keywords", "status", "said"),
    [
        ({"inputs": []}, "400", "inputs"),
        ({"inputs": [text(["a"]), text(["b"])]}, "400", "inputs is of 2 tensors, expected exactly one"),
        ({"inputs": [text([""])]}, "400", r"TEXT\[0\]"),
        ({"inputs": [series(np.full((1, 2, 1), np.nan, dtype=np.float32))]}, "400", r"SERIES\[0\]\[0\]\[0\] is nan"),
        ({"inputs": [text(["a", "b" * 5000])]}, "413", r"TEXT\[1\]"),
        (
            {"inputs": [text(["a"] * 200)], "parameters": {"membrane_depth": 16, "esn_size": 4096}},
            "413",
            "there are 200 rows, expected few enough that the answer has at most 16777216 numbers",
        ),
        ({"outputs": [triton.InferRequestedOutput("LOGITS")]}, "400", r"outputs\[0\].name is 'LOGITS', expected one of FEATURES"),
        ({"outputs": [triton.InferRequestedOutput("FEATURES", class_count=3)]}, "400", "classification"),
        ({"priority": 4}, "400", r"parameters.priority is 4, expected 1 \(highest\) to 3"),
        ({"timeout": 10**12}, "400", "timeout is"),
        ({"parameters": {"esn_size": 31}}, "400", "esn_size is 31"),
        ({"parameters": {"depth": 2}}, "400", "parameters.depth is unknown"),
        ({"sequence_id": 5}, "400", "parameters.sequence_id is unknown"),
    ],
)
def test_what_is_wrong_is_an_error_that_the_client_understands(
    sync: triton.InferenceServerClient, keywords: dict[str, object], status: str, said: str
) -> None:
    with pytest.raises(InferenceServerException, match=said) as caught:
        sync.infer("dtesn", **({"inputs": [text(["a"])]} | keywords))
    assert caught.value.status() == status


async def test_errors_are_the_same_for_the_asynchronous_client(aio: triton_aio.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="there is no model 'other'") as caught:
        await aio.infer("other", [text(["a"])])
    assert caught.value.status() == "404"


def test_a_deadline_that_cannot_be_met_says_when_to_come_again(server: Server) -> None:
    answer = requests.post(server.url + INFER, json=plain("a" * 4000, parameters={"timeout": 1}), timeout=LONG)
    assert answer.status_code in (429, 504)
    assert int(answer.headers["Retry-After"]) >= 1
    assert list(answer.json()) == ["error"]


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{", {}, 400),
        (b"{}", {"Inference-Header-Content-Length": "5"}, 400),
        (b"{}", {"Inference-Header-Content-Length": "two"}, 400),
        (json.dumps(plain("a")).encode() + b"behind", {}, 400),
        (b"{}", {"Content-Encoding": "br"}, 415),
        (b"no gzip", {"Content-Encoding": "gzip"}, 400),
        (gzip.compress(b" " * 10_000_000), {"Content-Encoding": "gzip"}, 413),
        (b" " * 2_000_001, {}, 413),
        (b"{}", {"Expect": "miracles"}, 417),
    ],
)
def test_bodies_that_are_none_get_the_protocols_errors(server: Server, body: bytes, headers: dict[str, str], status: int) -> None:
    answer = requests.post(server.url + INFER, data=body, headers=headers, timeout=LONG)
    assert answer.status_code == status
    assert list(answer.json()) == ["error"]
    assert answer.headers["Content-Type"] == "application/json"


def test_what_is_not_there_is_told_in_the_protocols_form_and_elsewhere_as_ever(server: Server) -> None:
    for path, status in (("/v2/nothing", 404), (f"{MODEL}/config", 404), (INFER, 405)):
        answer = requests.get(server.url + path, timeout=LONG)
        assert (answer.status_code, list(answer.json())) == (status, ["error"])
    assert requests.get(server.url + "/v2x", timeout=LONG).headers["Content-Type"] == "application/problem+json"


def test_one_row_that_fails_fails_its_request_and_no_other(server: Server, sync: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match=r"TEXT\[1\]"):
        sync.infer("dtesn", [text(["fine", "", "fine"])])
    assert sync.infer("dtesn", [text(["fine"])], timeout=MICROSECONDS).as_numpy("FEATURES").shape == (1, 2, 2, 64)


async def test_a_row_that_has_no_time_names_itself(server: Server) -> None:
    async with client(server) as http, http.post(INFER, json=plain("a" * 4000, "b" * 4000, parameters={"timeout": 1})) as answer:
        assert answer.status in (429, 504)
        assert "of 2: " in (await answer.json())["error"]


# -- at the edge ---------------------------------------------------------------------------------------------------------


def test_ids_traces_and_times_are_as_on_every_route(server: Server) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    answer = requests.post(server.url + INFER, json=plain("a"), headers={"X-Request-ID": "mine", "traceparent": trace}, timeout=LONG)
    assert answer.headers["X-Request-ID"] == "mine"
    assert answer.headers["traceresponse"].startswith("00-0af7651916cd43dd8448eb211c80319c-")
    assert "queue;dur=" in answer.headers["Server-Timing"]


def test_a_client_that_asks_first_is_told_to_go_on(server: Server) -> None:
    answer = requests.post(server.url + INFER, json=plain("a"), headers={"Expect": "100-continue"}, timeout=LONG)
    assert answer.status_code == 200


async def test_a_client_that_leaves_withdraws_its_rows() -> None:
    with running({"DTESN_MODEL_ESN_SIZE": "256", "DTESN_MODEL_MEMBRANE_DEPTH": "4"}) as server:
        async with client(server) as http, client(server) as leaving:
            rows = plain(*("x" * 4000 for _ in range(256)))
            call = asyncio.create_task(leaving.post(INFER, json=rows))
            await eventually(lambda: metric(http, "dtesn_pending_requests"), lambda queued: queued > 0)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
            await eventually(lambda: metric(http, "dtesn_cancellations_total"), lambda gone: gone > 0)
            await eventually(lambda: metric(http, "dtesn_pending_requests"), lambda queued: queued == 0)
            await eventually(lambda: metric(http, "dtesn_http_disconnects_total"), lambda left: left == 1)


def test_the_log_has_the_route_and_nothing_of_the_content() -> None:
    with running() as server:
        body = plain("a secret text", id="a secret id")
        assert requests.post(server.url + INFER, json=body, timeout=LONG).status_code == 200
        assert requests.get(f"{server.url}/v2/models/secret", timeout=LONG).status_code == 404
        server.terminate()
        assert server.end() == 0
        assert [(record["route"], record["status"]) for record in server.records()] == [
            ("/v2/models/{model}/infer", 200),
            ("/v2/models/{model}", 404),
        ]
        assert "secret" not in server.log()


async def test_leaving_fails_readiness_and_still_answers() -> None:
    with running({"DTESN_SIDECAR_DRAIN_DELAY_SECONDS": "600"}) as server:
        server.terminate(signal.SIGUSR1)
        async with client(server) as http:

            async def ready() -> int:
                async with http.get("/v2/health/ready") as answer:
                    assert (await answer.json())["ready"] is (answer.status == 200)
                    return answer.status

            await eventually(ready, lambda status: status == 503)
            async with http.get(f"{MODEL}/ready") as answer:
                assert (answer.status, await answer.json()) == (503, {"name": "dtesn", "ready": False})
            async with http.get("/v2/health/live") as answer:
                assert (answer.status, await answer.json()) == (200, {"live": True})
            async with http.post(INFER, json=plain("a")) as answer:
                assert answer.status == 200


# -- readouts ------------------------------------------------------------------------------------------------------------


def test_a_classifier_answers_with_labels_and_scores(tmp_path: Path) -> None:
    labels = ("ja", "nein", "vielleicht")
    with running(write_readout(tmp_path, labels)) as server:
        sync = triton.InferenceServerClient(f"127.0.0.1:{server.port}", network_timeout=LONG)
        described = sync.get_model_metadata("dtesn")["outputs"]
        assert described == [
            FEATURES,
            {"name": "PREDICTION", "datatype": "BYTES", "shape": [-1]},
            {"name": "SCORES", "datatype": "FP32", "shape": [-1, 3]},
        ]
        own = [
            requests.post(f"{server.url}/dtesn/process", json={"input_data": each, "timeout": LONG}, timeout=LONG).json() for each in TEXTS
        ]
        outputs = [each["result"]["processed_output"] for each in own]
        alone = [triton.InferRequestedOutput("PREDICTION"), triton.InferRequestedOutput("SCORES", binary_data=False)]
        for wanted in (None, alone):
            answer = sync.infer("dtesn", [text(TEXTS)], outputs=wanted, timeout=MICROSECONDS)
            assert [label.decode() for label in answer.as_numpy("PREDICTION")] == [each["prediction"] for each in outputs]
            scores = [[each["scores"][label] for label in labels] for each in outputs]
            assert answer.as_numpy("SCORES") == pytest.approx(np.array(scores), rel=0, abs=1e-4)
            assert json.loads(answer.get_output("SCORES")["parameters"]["labels"]) == list(labels)
            assert (answer.as_numpy("FEATURES") is None) is (wanted is alone)
        with pytest.raises(InferenceServerException, match="for this depth and size"):
            sync.infer("dtesn", [text(["a"])], outputs=alone, parameters={"membrane_depth": 1})
        sync.close()


def test_a_regression_answers_with_numbers(tmp_path: Path) -> None:
    with running(write_readout(tmp_path, None)) as server:
        sync = triton.InferenceServerClient(f"127.0.0.1:{server.port}", network_timeout=LONG)
        assert sync.get_model_metadata("dtesn")["outputs"] == [FEATURES, {"name": "PREDICTION", "datatype": "FP32", "shape": [-1, 3]}]
        body = {"input_data": TEXTS[0], "timeout": LONG}
        own = requests.post(f"{server.url}/dtesn/process", json=body, timeout=LONG).json()["result"]["processed_output"]["prediction"]
        answer = sync.infer("dtesn", [text(TEXTS[:1])], outputs=[triton.InferRequestedOutput("PREDICTION")], timeout=MICROSECONDS)
        assert answer.as_numpy("PREDICTION") == pytest.approx(np.array([own]), rel=0, abs=1e-3)
        sync.close()
