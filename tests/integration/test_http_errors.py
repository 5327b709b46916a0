"""Bad input, row by row: each a documented status that names what is wrong, and nothing else in the batch suffers."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterator

import aiohttp
import msgspec
import pytest
from tests.integration.http_server import LONG, Server, running

from dtesn_api import wire

PROCESS = "/dtesn/process_with_batching"
DIRECT = "/dtesn/process"
BULK = "/dtesn/batch_process"
JSON = {"Content-Type": "application/json"}
LIMIT = 200_000


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running({"DTESN_SIDECAR_MAX_BODY_BYTES": str(LIMIT), "DTESN_MODEL_MAX_NODES": "300"}) as server:
        yield server


@pytest.fixture
async def http(server: Server) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(server.url) as session:
        yield session


async def problem_of(answer: aiohttp.ClientResponse) -> wire.ProblemDocument:
    assert answer.content_type == "application/problem+json"
    problem = msgspec.json.decode(await answer.read(), type=wire.ProblemDocument)
    assert problem.status == answer.status
    assert problem.title
    assert problem.instance == answer.headers["X-Request-ID"]
    assert answer.headers["Server-Timing"]
    if answer.status in (429, 503, 504):
        assert int(answer.headers["Retry-After"]) == problem.retry_after >= 1
    return problem


def deep(levels: int) -> bytes:
    return b'{"input_data": ' + b'{"label": 1, "children": [' * levels + b'{"label": 1}' + b"]}" * levels + b"}"


NESTED = b"[" * 1000 + b"]" * 1000
HUGE = b"9" * 5000

# body, status, code, field (None: the whole), words that the answer must hold: the value and the range
BAD = {
    "malformed JSON": (b'{"input_data": "a"', 400, "malformed_body", None, ["JSON"]),
    "not JSON at all": (b"hello", 400, "malformed_body", None, ["JSON"]),
    "an empty body": (b"", 400, "malformed_body", None, ["empty"]),
    "half a character": (b'{"input_data": "\\ud800"}', 400, "malformed_body", None, ["input_data", "ud800", "half a character"]),
    "invalid UTF-8": (b'{"input_data": "\xff\xfe"}', 400, "malformed_body", None, ["UTF-8"]),
    "an array": (b"[]", 422, "invalid_input", "the body", ["object"]),
    "wrong type of a number": (b'{"input_data": "a", "priority": "high"}', 422, "invalid_input", "priority", ["high", "0 to 2"]),
    "wrong type of a flag": (b'{"input_data": "a", "enable_batching": 1}', 422, "invalid_input", "enable_batching", ["1", "true or false"]),
    "NaN as an option": (b'{"input_data": "a", "timeout": NaN}', 422, "invalid_input", "timeout", ["nan", "finite"]),
    "infinity in a series": (b'{"input_data": [1.0, Infinity]}', 422, "invalid_input", "input_data[1]", ["inf", "finite"]),
    "NaN in a tree": (b'{"input_data": {"label": NaN}}', 422, "invalid_input", "input_data.label", ["nan", "finite"]),
    "a number beyond a float": (b'{"input_data": [1e999]}', 422, "invalid_input", "input_data[0]", ["inf", "finite"]),
    "an unknown field": (b'{"input_data": "a", "prioritty": 1}', 422, "invalid_input", "prioritty", ["priority"]),
    "a missing field": (b"{}", 422, "invalid_input", "input_data", ["missing"]),
    "an empty text": (b'{"input_data": ""}', 422, "invalid_input", "input_data", ["''", "at least one"]),
    "an empty series": (b'{"input_data": []}', 422, "invalid_input", "input_data", ["empty"]),
    "no input": (b'{"input_data": null}', 422, "invalid_input", "input_data", []),
    "a ragged series": (b'{"input_data": [[1, 2], [1]]}', 422, "invalid_input", "input_data[1]", []),
    "nesting beyond the decoder": (deep(1000), 422, "invalid_input", "input_data", ["400", "parents"]),
    "nesting of 10^5 levels": (b'{"input_data": ' + b"[" * 90_000, 422, "invalid_input", "input_data", ["400", "parents"]),
    "nesting beyond the decoder in an unknown field": (b'{"input_data": "a", "zzz": %b}' % NESTED, 422, "invalid_input", "zzz", []),
    "nesting beyond the decoder in an option": (b'{"input_data": "a", "priority": %b}' % NESTED, 422, "invalid_input", "priority", []),
    "nesting beyond the decoder after an unknown field": (b'{"zzz": 1, "input_data": %b}' % NESTED, 422, "invalid_input", None, []),
    "an integer of thousands of digits": (b'{"input_data": "a", "priority": %b}' % HUGE, 422, "invalid_input", "priority", ["0 to 2"]),
    "such an integer in a series": (b'{"input_data": [1, %b]}' % HUGE, 422, "invalid_input", "input_data[1]", ["finite"]),
    "a row wider than a label may be": (
        b'{"input_data": [[%b]]}' % b",".join([b"1"] * 1025),
        422,
        "invalid_input",
        "input_data[0]",
        ["1025", "1..1024"],
    ),
    "a label that is null": (b'{"input_data": {"label": null}}', 422, "invalid_input", "input_data.label", ["null"]),
    "labels of two kinds": (
        b'{"input_data": {"labels": [1, "x"], "parents": [-1, 0]}}',
        422,
        "invalid_input",
        "input_data.labels[1]",
        [],
    ),
    "a depth out of range": (b'{"input_data": "a", "membrane_depth": 17}', 422, "invalid_input", "membrane_depth", ["17", "1 to 16"]),
    "a size out of range": (b'{"input_data": "a", "esn_size": 31}', 422, "invalid_input", "esn_size", ["31", "32 to 4096"]),
    "a priority out of range": (b'{"input_data": "a", "priority": -1}', 422, "invalid_input", "priority", ["-1", "0 to 2"]),
    "a negative timeout": (b'{"input_data": "a", "timeout": -1}', 422, "invalid_input", "timeout", ["-1", "0"]),
    "a timeout of zero": (b'{"input_data": "a", "timeout": 0}', 422, "invalid_input", "timeout", ["0"]),
    "a timeout beyond the server's": (b'{"input_data": "a", "timeout": 301}', 422, "invalid_input", "timeout", ["301", "300"]),
    "an unknown format": (b'{"input_data": "a", "input_format": "yaml"}', 422, "invalid_input", "input_format", ["yaml", "xml"]),
    "an unknown output": (b'{"input_data": "a", "output": "x"}', 422, "invalid_input", "output", ["x", "features"]),
    "a readout that is not there": (b'{"input_data": "a", "output": "readout"}', 422, "invalid_input", "output", ["readout"]),
    "a tree that is none": (b'{"input_data": {"labels": [1, 2], "parents": [1, 0]}}', 422, "invalid_input", None, []),
    "XML with entities": (
        b'{"input_data": "<!DOCTYPE a [<!ENTITY e \\"x\\">]><a>&e;</a>", "input_format": "xml"}',
        422,
        "invalid_input",
        None,
        [],
    ),
    "XML with an entity that is not declared": (
        b'{"input_data": "<a>&e;</a>", "input_format": "xml"}',
        422,
        "invalid_input",
        "input_data",
        ["well-formed"],
    ),
    "an unknown model": (b'{"input_data": "a", "model": "other"}', 404, "not_found", "model", ["other", "dtesn"]),
    "too many nodes": (b'{"input_data": "' + b"a" * 301 + b'"}', 413, "request_too_large", "input_data", ["301", "300"]),
    "too large a body": (b'{"input_data": "' + b"a" * LIMIT + b'"}', 413, "request_too_large", "the body", [str(LIMIT)]),
}


@pytest.mark.parametrize("path", [PROCESS, DIRECT])
@pytest.mark.parametrize("case", BAD)
async def test_bad_input_is_answered_by_name_value_and_range(http: aiohttp.ClientSession, case: str, path: str) -> None:
    body, status, code, field, words = BAD[case]
    async with http.post(path, data=body, headers=JSON) as answer:
        assert answer.status == status, await answer.text()
        problem = await problem_of(answer)
    if path == DIRECT and case == "wrong type of a flag":
        return  # a field that this endpoint does not have is unknown, whatever its type
    assert problem.code == code
    if field is not None:
        named = [problem.field] if problem.errors is msgspec.UNSET else [entry.field for entry in problem.errors]
        assert field in named
        assert problem.expected
    for word in words:
        assert word in problem.detail
    assert len(problem.detail) < 4100


async def test_every_problem_is_named_and_not_only_the_first(http: aiohttp.ClientSession) -> None:
    async with http.post(PROCESS, json={"input_data": "a", "priority": 9, "timeout": -1, "nope": 1}) as answer:
        problem = await problem_of(answer)
    assert {entry.field for entry in problem.errors} == {"priority", "timeout", "nope"}


async def test_bad_requests_do_no_harm_to_the_good_ones_beside_them(http: aiohttp.ClientSession) -> None:
    async def good(i: int) -> int:
        async with http.post(PROCESS, json={"input_data": f"good {i}"}) as answer:
            assert (await answer.json())["result"]["processed_output"]["nodes"] == len(f"good {i}")
            return answer.status

    async def bad(body: bytes) -> int:
        async with http.post(PROCESS, data=body, headers=JSON) as answer:
            return answer.status

    calls = [call for i, (body, *_) in enumerate(BAD.values()) for call in (good(i), bad(body), good(1000 + i))]
    statuses = await asyncio.gather(*calls)
    assert [status for i, status in enumerate(statuses) if i % 3 != 1] == [200] * (2 * len(BAD))
    assert [status for i, status in enumerate(statuses) if i % 3 == 1] == [status for _, status, *_ in BAD.values()]


async def test_a_long_value_is_cut_and_a_lone_surrogate_survives_the_answer(http: aiohttp.ClientSession) -> None:
    async with http.post(PROCESS, json={"input_data": "a", "model": "x" * 5000, "output": "y" * 5000}) as answer:
        assert answer.status == 422
        assert len(await answer.read()) < 6000
    async with http.post(PROCESS, data=b'{"input_data": "a", "\\ud800": 1}', headers=JSON) as answer:
        assert answer.status in (400, 422)
        await problem_of(answer)
    async with http.post(PROCESS, data=b'{"input_data": "\\ud800"}', headers=JSON) as answer:
        assert answer.status in (400, 422)
        await problem_of(answer)


@pytest.mark.parametrize("path", [PROCESS, DIRECT])
async def test_a_deadline_that_nothing_can_meet_is_refused_or_missed_and_may_be_tried_again(http: aiohttp.ClientSession, path: str) -> None:
    async with http.post(path, json={"input_data": "a", "timeout": 1e-9}) as answer:
        problem = await problem_of(answer)  # with Retry-After
    assert (problem.status, problem.code) in ((429, "queue_full"), (504, "deadline_exceeded"))


@pytest.mark.parametrize("padding", [0, 70_000])  # beyond 64 KiB a helper process decodes
@pytest.mark.parametrize(
    "case", ["nesting beyond the decoder in an unknown field", "an integer of thousands of digits", "half a character"]
)
async def test_a_large_body_is_refused_in_the_same_words(http: aiohttp.ClientSession, case: str, padding: int) -> None:
    body, status, code, _, words = BAD[case]
    async with http.post(PROCESS, data=body + b" " * padding, headers=JSON) as answer:
        assert answer.status == status
        problem = await problem_of(answer)
    assert problem.code == code
    assert "RecursionError" not in problem.detail
    for word in words:
        assert word in problem.detail


async def test_in_a_bulk_call_each_bad_input_fails_alone(http: aiohttp.ClientSession) -> None:
    inputs = b'["good", [1, NaN], {"label": 1e999}, [[1], [%b]], "%b", 7, "good too"]' % (HUGE, b"a" * 301)
    async with http.post(BULK, data=b'{"inputs": %b}' % inputs, headers=JSON) as answer:
        assert answer.status == 200, await answer.text()
        results = (await answer.json())["results"]
    assert [item["status"] for item in results] == ["success", *["error"] * 5, "success"]
    errors = [(item["error"]["status"], item["error"]["field"]) for item in results[1:-1]]
    assert errors == [(422, "inputs[1][1]"), (422, "inputs[2].label"), (422, "inputs[3][1][0]"), (413, "inputs[4]"), (422, "inputs[5]")]


async def test_a_bulk_call_that_cannot_be_decoded_names_its_own_field(http: aiohttp.ClientSession) -> None:
    async with http.post(BULK, data=b'{"inputs": ["a", %b]}' % (b"[" * 90_000), headers=JSON) as answer:
        assert answer.status == 422
        assert (await problem_of(answer)).field == "inputs"


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "application/json; charset=latin-1"},
        {"Content-Type": "application/jsonx"},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
    ],
)
async def test_another_content_type_is_415(http: aiohttp.ClientSession, headers: dict[str, str]) -> None:
    async with http.post(PROCESS, data=b'{"input_data": "a"}', headers=headers) as answer:
        assert answer.status == 415
        assert (await problem_of(answer)).code == "unsupported_media_type"


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", 'Application/JSON; charset="UTF-8"'])
async def test_json_in_utf8_may_say_so(http: aiohttp.ClientSession, kind: str) -> None:
    async with http.post(PROCESS, data=b'{"input_data": "a"}', headers={"Content-Type": kind}) as answer:
        assert answer.status == 200


async def test_unknown_paths_are_404_and_wrong_methods_405_with_allow(http: aiohttp.ClientSession) -> None:
    for path in ("/v3", "/dtesn", "/dtesn/process_with_batching/", "/../etc/passwd", "/%00"):
        async with http.get(path) as answer:
            assert answer.status == 404
            assert (await problem_of(answer)).code == "not_found"
    for method, path, allowed in (("GET", PROCESS, {"POST"}), ("DELETE", "/metrics", {"GET", "HEAD"}), ("PUT", BULK, {"POST"})):
        async with http.request(method, path) as answer:
            assert answer.status == 405
            assert set(answer.headers["Allow"].split(",")) == allowed
            assert (await problem_of(answer)).code == "method_not_allowed"


async def test_an_unmet_expectation_is_417(http: aiohttp.ClientSession) -> None:
    for path in (PROCESS, "/nothing"):
        async with http.post(path, data=b"{}", headers={**JSON, "Expect": "the-unexpected"}) as answer:
            assert answer.status == 417
            assert (await problem_of(answer)).code == "expectation_failed"


async def test_a_chunked_body_without_length_is_bounded_too(http: aiohttp.ClientSession) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield b'{"input_data": "'
        while True:
            yield b"a" * 4096

    # the server may close while the client still sends: then the client sees a reset in place of the answer
    try:
        async with http.post(PROCESS, data=endless(), headers=JSON) as answer:
            assert answer.status == 413
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
        pass
    async with http.get("/healthz") as answer:
        assert answer.status == 200


def exchange(server: Server, data: bytes) -> bytes:
    """Raw bytes to the server, and everything it answers until it closes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=LONG) as connection:
        connection.sendall(data)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
        return answer


@pytest.mark.parametrize(
    "data",
    [
        b"NONSENSE\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nBad Header\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"".join(b"X-%d: 1\r\n" % i for i in range(200)) + b"\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
)
def test_what_is_not_http_is_a_problem_document_with_400(server: Server, data: bytes) -> None:
    head, _, body = exchange(server, data).partition(b"\r\n\r\n")
    assert head.startswith((b"HTTP/1.0 400 ", b"HTTP/1.1 400 ")), head
    assert b"application/problem+json" in head
    assert json.loads(body)["code"] == "malformed_request"


def head_of(*lines: str) -> bytes:
    return "\r\n".join((f"POST {PROCESS} HTTP/1.1", "Host: a", "Content-Type: application/json", *lines, "", "")).encode()


def test_chunks_that_are_malformed_are_400(server: Server) -> None:
    answer = exchange(server, head_of("Transfer-Encoding: chunked") + b"zz\r\n")
    assert answer.split()[1] == b"400"


async def test_a_body_that_breaks_off_costs_nothing(server: Server, http: aiohttp.ClientSession) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=LONG) as connection:
        connection.sendall(head_of("Content-Length: 100") + b'{"input')
    async with http.post(PROCESS, json={"input_data": "a"}) as answer:
        assert answer.status == 200


def test_a_body_that_would_be_refused_is_not_asked_for(server: Server) -> None:
    expectation = ("Expect: 100-continue", "Connection: close")
    answer = exchange(server, head_of(*expectation, f"Content-Length: {LIMIT + 1}"))
    assert answer.startswith(b"HTTP/1.1 413 ")
    answer = exchange(server, head_of(*expectation, "Content-Encoding: gzip", "Content-Length: 19"))
    assert answer.startswith(b"HTTP/1.1 415 ")
    wrong_type = head_of(*expectation, "Content-Length: 19").replace(b"application/json", b"text/plain")
    assert exchange(server, wrong_type).startswith(b"HTTP/1.1 415 ")
    answer = exchange(server, head_of(*expectation, "Content-Length: 19") + b'{"input_data": "a"}')
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 ")


async def test_a_deadline_that_cannot_be_met_is_refused_with_retry_after() -> None:
    environ = {"DTESN_MODEL_ESN_SIZE": "512", "DTESN_MODEL_MEMBRANE_DEPTH": "4"}
    with running(environ) as server:
        async with aiohttp.ClientSession(server.url, connector=aiohttp.TCPConnector(limit=0)) as http:

            async def one() -> int:
                async with http.post(PROCESS, json={"input_data": "x" * 2000, "timeout": 0.05}) as answer:
                    if answer.status != 200:
                        await problem_of(answer)
                    return answer.status

            statuses = await asyncio.gather(*(one() for _ in range(40)))
            assert set(statuses) <= {200, 429, 504}
            assert set(statuses) & {429, 504}
            async with http.get("/metrics") as answer:
                assert "dtesn_refusals_total" in await answer.text()


async def test_a_full_queue_is_429_with_retry_after() -> None:
    window = {"DTESN_BATCHING_STRATEGY": "fixed", "DTESN_BATCHING_TARGET_BATCH_SIZE": "8", "DTESN_BATCHING_MAX_BATCH_WAIT_MS": "5000"}
    environ = {**window, "DTESN_BATCHING_MAX_QUEUE_SIZE": "4"}  # so that the first four are held, and nobody else is taken
    with running(environ) as server:
        async with aiohttp.ClientSession(server.url, connector=aiohttp.TCPConnector(limit=0)) as http:

            async def one(priority: int) -> tuple[int, str]:
                async with http.post(PROCESS, json={"input_data": "x" * 10, "priority": priority, "timeout": LONG}) as answer:
                    return answer.status, "" if answer.status == 200 else (await problem_of(answer)).code

            outcomes = await asyncio.gather(*(one(i % 3) for i in range(90)))
            assert {status for status, _ in outcomes} == {200, 429}
            assert {code for _, code in outcomes} == {"", "queue_full"}
