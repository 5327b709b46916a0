from __future__ import annotations

import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtesn_sidecar.compute import frames
from dtesn_sidecar.compute.frames import PREFIX, FrameReader, FrameTooLarge, FrameWriter, encode, padded, split

frame = st.tuples(st.binary(max_size=40), st.lists(st.binary(max_size=300), max_size=5))
large_frame = st.tuples(st.binary(max_size=8), st.lists(st.integers(0, 200_000).map(bytes), max_size=2))


def feed(reader: FrameReader, stream: bytes, cuts: list[int]) -> list[tuple[bytes, memoryview]]:
    """Hand the stream to the reader in pieces of at most these sizes (again and again), as `readv` would fill its buffers."""
    found, at, turn = [], 0, 0
    while at < len(stream):
        most = cuts[turn % len(cuts)]
        turn += 1
        taken = 0
        for buffer in reader.buffers():
            piece = stream[at : at + min(len(buffer), most - taken)]
            buffer[: len(piece)] = piece
            at += len(piece)
            taken += len(piece)
            if len(piece) < len(buffer):
                break
        found += reader.filled(taken)
    return found


@given(st.lists(frame | large_frame, max_size=8), st.lists(st.integers(1, 70_000), min_size=1, max_size=5))
def test_frames_arrive_whole_and_in_order_however_the_stream_is_cut(sent: list[tuple[bytes, list[bytes]]], cuts: list[int]) -> None:
    stream = b"".join(b"".join(encode(header, buffers)) for header, buffers in sent)
    received = feed(FrameReader(), stream, cuts)
    assert [
        (header, [bytes(b) for b in split(body, [len(b) for b in buffers])])
        for (header, body), (_, buffers) in zip(received, sent, strict=True)
    ] == [(header, buffers) for header, buffers in sent]


def test_a_header_larger_than_the_scratch_buffer_is_read() -> None:
    header = os.urandom(300_000)
    [(found, body)] = feed(FrameReader(), b"".join(encode(header, [b"abc"])), [10_000])
    assert found == header
    assert bytes(body[:3]) == b"abc"


def test_buffers_start_at_multiples_of_eight_bytes() -> None:
    [(_, body)] = feed(FrameReader(), b"".join(encode(b"h", [b"abc", b"defgh", b"i" * 9])), [1 << 20])
    assert len(body) == padded(3) + padded(5) + padded(9)
    assert [bytes(view) for view in split(body, [3, 5, 9])] == [b"abc", b"defgh", b"i" * 9]


@pytest.mark.parametrize("prefix", [(frames.MAX_HEADER + 1, 0), (1, frames.MAX_BODY + 1), (2**32 - 1, 2**32 - 1)])
def test_a_frame_beyond_the_bounds_is_refused_before_memory_is_taken(prefix: tuple[int, int]) -> None:
    with pytest.raises(FrameTooLarge):
        feed(FrameReader(), struct.pack("<II", *prefix), [8])


def test_a_frame_beyond_the_bounds_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MAX_BODY", 16)
    writer = FrameWriter()
    with pytest.raises(FrameTooLarge):
        writer.add(b"h", [b"x" * 17])
    assert not writer


def test_a_writer_keeps_what_the_pipe_does_not_take() -> None:
    out, into = os.pipe()
    os.set_blocking(into, False)
    os.set_blocking(out, False)
    writer, reader = FrameWriter(), FrameReader()
    sent = [(f"{n}".encode(), [os.urandom(50_000), os.urandom(3)]) for n in range(20)]
    for header, buffers in sent:
        writer.add(header, buffers)
    assert not writer.flush(into), "a megabyte fitted into the pipe: this test proves nothing"
    received: list[tuple[bytes, memoryview]] = []
    while len(received) < len(sent):
        received += reader.read(out) or []
        writer.flush(into)
    assert not writer
    assert [(h, [bytes(b) for b in split(body, [50_000, 3])]) for h, body in received] == sent
    os.close(into)
    assert reader.read(out) is None
    os.close(out)


def test_small_buffers_are_joined_into_one_write_and_large_ones_are_not_copied() -> None:
    assert len(encode(b"h", [b"x" * 10] * 100)) == 1
    large = bytes(1 << 20)
    assert any(part is large for part in encode(b"h", [large]))


def test_the_prefix_says_how_much_follows() -> None:
    [frame] = encode(b"head", [b"12345678", b"9"])
    assert PREFIX.unpack_from(frame) == (4, 16)
    assert len(frame) == PREFIX.size + 4 + 16
