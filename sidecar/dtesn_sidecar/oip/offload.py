"""Reading large requests and writing large answers in the helper process, so that the event loop does not wait for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, Final, TypeVar

import msgspec
from msgspec.structs import replace

from dtesn_sidecar.compute.frames import Bytes
from dtesn_sidecar.compute.helper import Helper
from dtesn_sidecar.compute.offload import LARGE_BODY
from dtesn_sidecar.model.trees import Tree
from dtesn_sidecar.oip.requests import Asked, ManyRows, Reading

MANY_ROWS: Final = 1024
"""Rows, however short, that take some ms to read."""


F = TypeVar("F", bound=Reading)
Decode = Callable[[bytes, F], tuple[Asked, list[Tree]]]


async def decoded(helper: Helper, decode: Decode[F], body: bytes, form: F) -> tuple[Asked, list[Tree]]:
    """`decode(body, form)`, in the helper process where that would take long here. Raises what `decode` raises."""
    if len(body) <= LARGE_BODY and not form.may_grow:
        try:
            return decode(body, replace(form, here=MANY_ROWS))
        except ManyRows:
            pass
    return await decode_in(helper, decode, body, form)


async def decode_in(helper: Helper, decode: Decode[F], body: bytes, form: F) -> tuple[Asked, list[Tree]]:
    """`decode(body, form)` in the helper process; `decode` and the type of `form` are module-level names of one module."""
    names = (decode.__module__, decode.__name__, type(form).__name__)
    (wanted, headers), buffers = await helper.call(decode_there, (names, msgspec.to_builtins(form)), [body])
    views = iter(buffers)
    trees = [Tree.unpack(header, [next(views) for _ in range(header[3])]) for header in headers]
    return msgspec.convert(wanted, Asked), trees


def decode_there(arguments: Sequence[Any], buffers: list[memoryview]) -> tuple[Any, list[Bytes]]:
    """In the helper: what the request asks for, and its trees packed."""
    (module, decode, form), settings = arguments
    home = import_module(module)
    wanted, trees = getattr(home, decode)(bytes(buffers[0]), msgspec.convert(settings, getattr(home, form)))
    headers, out = [], list[Bytes]()
    for tree in trees:
        header, parts = tree.pack()
        headers.append(header)
        out.extend(parts)
    return (msgspec.to_builtins(wanted), headers), out
