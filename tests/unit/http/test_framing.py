"""The stricter of two readers: what it calls a whole request is one, and it never loses its place without knowing."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given
from tests.unit.http.wire import PROCESS, post

from dtesn_sidecar.routes_framing import MOST_HEAD, Framing, Plain

BODIES = st.binary(max_size=40)


@given(st.lists(BODIES, min_size=1, max_size=5))
def test_each_request_that_comes_as_one_piece_is_seen(bodies: list[bytes]) -> None:
    framing = Framing()
    for body in bodies:
        found = framing.whole(post(body, X_Request_ID="me"))
        assert found == Plain(PROCESS, {"Content-Type": "application/json", "Content-Length": str(len(body)), "X-Request-ID": "me"}, body)


@given(st.lists(BODIES.filter(len), min_size=2, max_size=5), st.data())
def test_a_body_in_pieces_is_passed_over_and_the_next_request_seen(bodies: list[bytes], data: st.DataObject) -> None:
    framing = Framing()
    for body in bodies[:-1]:
        whole = post(body)
        head = whole.index(b"\r\n\r\n") + 4
        cuts = sorted(data.draw(st.sets(st.integers(head, len(whole) - 1), min_size=1, max_size=4)))
        for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
            assert framing.whole(whole[start:end]) is None
    found = framing.whole(post(bodies[-1]))
    assert found is not None
    assert found.body == bodies[-1]


@pytest.mark.parametrize(
    "piece",
    [
        b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n",
        post() + post(),
        post() + b"\r\n",
        post()[:20],
        b"\r\n" + post(),
        post(Transfer_Encoding="chunked"),
        post(Upgrade="websocket"),
        post(length=False),
        post(content_length="5"),
        post(Content_Length="+5"),
        post(Content_Length="5, 5"),
        post(Content_Length="1234567890"),
        post(Content_Length="0x5"),
        post(X_Other="a\r\n folded"),
        post(X_Other="a\x00b"),
        post(X_Other="caf\u00e9"),
        post(X_Other="x" * MOST_HEAD),
        post(Empty=""),
        post().replace(b"HTTP/1.1", b"HTTP/1.0"),
        post().replace(b"\r\n", b"\n"),
        post(path=PROCESS + "?a=b"),
        post(path="http://a" + PROCESS),
    ],
)
def test_what_it_is_not_certain_of_ends_its_part_on_that_connection(piece: bytes) -> None:
    framing = Framing()
    assert framing.whole(piece) is None
    assert framing.whole(post()) is None
