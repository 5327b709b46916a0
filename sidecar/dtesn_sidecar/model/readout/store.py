"""The readout's file: safetensors with one entry of metadata, and a SHA-256 over all of it. The only file that imports safetensors.

The format, version 1: the tensors `weights` float64 [outputs, 2 * depth * esn_size] and `intercept` float64 [outputs], and the metadata
`dtesn_readout`, a JSON document (`_Document`). Its `sha256` is that of the whole file with the 64 digits of the sum itself as zeros, so
that no byte of the file can change unseen. It is a checksum, not a signature: whoever may write the file may write the sum too.

A file is bounded, then summed, then parsed; nothing in it is ever executed. What is wrong is told as `SpecInvalid`, whole.
"""

from __future__ import annotations

import hashlib
import logging
import os
import struct
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec
import numpy as np

from dtesn_api.names import READOUT_FOLDER
from dtesn_api.problems import Problem, SpecInvalid, problem
from dtesn_api.reading import read
from dtesn_api.schema import to_wire, wire_name
from dtesn_api.spec import ModelConfiguration
from dtesn_sidecar.model.readout.value import PINNED, OutputLayer, Readout, unlike

if TYPE_CHECKING:
    from dtesn_api.spec import ReadoutSource

log = logging.getLogger(__name__)

FORMAT: Final = 1
KEY: Final = "dtesn_readout"
MAX_BYTES: Final = 256 << 20
MAX_OUTPUTS: Final = 1024
MAX_LABEL: Final = 256
_MAX_HEADER: Final = 1 << 20
_NO_SUM: Final = "0" * 64
_FITTED: Final = ("membrane_depth", "esn_size", *PINNED)
_PICKLES: Final = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")  # of Python, and of PyTorch in a zip archive


class _Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The metadata. `model` has the fields of `spec.model` that decide what features are; `notes` how it was fitted."""

    format: int
    kind: Literal["classification", "regression"]
    sha256: str
    model: dict[str, Any]
    labels: list[str] | None = None
    sharpness: float = 1.0
    notes: dict[str, Any] = {}


def path_of(source: ReadoutSource) -> Path:
    """The file of a source. What comes from a ConfigMap or a claim is mounted in `READOUT_FOLDER` by the operator."""
    if source.path is not None:
        return Path(source.path)
    if source.config_map is not None:
        return Path(READOUT_FOLDER, source.config_map.key)
    assert source.persistent_volume_claim is not None  # noqa: S101 - exactly one is given, by the spec's own rule
    return Path(READOUT_FOLDER, source.persistent_volume_claim.path.lstrip("/"))


def dump(readout: Readout) -> bytes:
    """The bytes of its file. Equal readouts have equal bytes."""
    from safetensors.numpy import save

    document = _Document(
        format=FORMAT,
        kind="regression" if readout.labels is None else "classification",
        sha256=_NO_SUM,
        model={wire_name(name): getattr(readout.model, name) for name in _FITTED},
        labels=None if readout.labels is None else list(readout.labels),
        sharpness=readout.sharpness,
        notes=dict(readout.notes),
    )
    tensors = {"weights": readout.layer.weights, "intercept": readout.layer.intercept}
    data = save({name: np.ascontiguousarray(array) for name, array in tensors.items()}, {KEY: msgspec.json.encode(document).decode()})
    return data.replace(_NO_SUM.encode(), hashlib.sha256(data).hexdigest().encode(), 1)


def save_readout(readout: Readout, path: Path) -> str:
    """Write the file whole or not at all; its SHA-256 as stored within. Raises OSError."""
    data = dump(readout)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)  # the temporary file is its owner's alone; a readout is no secret, and the server may be another user
        os.replace(name, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(name)
        raise
    return parse(data, str(path)).digest


def load_readout(path: Path, served: ModelConfiguration | None = None) -> Readout:
    """The readout in a file, fit to read `served` where that is given. Raises SpecInvalid with every problem."""
    name = str(path)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise _refused(name, f"unreadable ({error.strerror})", "a readout file written by `dtesn-sidecar fit`") from None
    readout = parse(data, name)
    if served is not None and (found := unlike(readout.model, served)):
        raise SpecInvalid(found)
    return readout


def parse(data: bytes, name: str) -> Readout:
    """The readout that the bytes of a file say; `name` stands for the file in messages. Raises SpecInvalid with every problem."""
    document = _document(data, name)
    found: list[Problem] = []
    try:
        model = read(ModelConfiguration, document.model, f"{name}: model")
    except SpecInvalid as error:
        raise SpecInvalid(error.problems) from None
    absent = [wire_name(field) for field in _FITTED if wire_name(field) not in document.model]
    if absent:
        found.append(problem(f"{name}: model", "without " + ", ".join(absent), "complete"))
    weights, intercept = _tensors(data, name)
    outputs = len(intercept)
    labels = None if document.labels is None else tuple(document.labels)
    features = 2 * model.membrane_depth * model.esn_size
    if not 1 <= outputs <= MAX_OUTPUTS:
        found.append(problem(f"{name}: intercept", outputs, f"of 1 to {MAX_OUTPUTS} outputs"))
    if weights.shape != (outputs, features):
        found.append(problem(f"{name}: weights", str(weights.shape), f"of the shape {(outputs, features)}, as model and intercept say"))
    if not (np.isfinite(weights).all() and np.isfinite(intercept).all()):
        found.append(problem(f"{name}: weights", "not finite", "finite numbers"))
    if (labels is None) is (document.kind == "classification"):
        found.append(problem(f"{name}: labels", "absent" if labels is None else "given", "given for a classification, and for it alone"))
    if labels is not None:
        found += _label_problems(labels, outputs, name)
    if not 0 < document.sharpness < np.inf:
        found.append(problem(f"{name}: sharpness", document.sharpness, "a finite number above 0"))
    if found:
        raise SpecInvalid(found)
    layer = OutputLayer(model.membrane_depth, model.esn_size, weights, intercept)
    return Readout(model, layer, labels, document.sharpness, document.notes, document.sha256)


def _document(data: bytes, name: str) -> _Document:
    """The metadata of a file whose sum holds."""
    header = _header(data, name)
    metadata = header.get("__metadata__")
    if not isinstance(metadata, Mapping) or not isinstance(text := metadata.get(KEY), str):
        raise _refused(name, f"a safetensors file without the metadata {KEY}", "a readout file written by `dtesn-sidecar fit`")
    try:
        loose = msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise _refused(f"{name}: {KEY}", f"no JSON ({error})", "a JSON document") from None
    stated = loose.get("sha256") if isinstance(loose, Mapping) else None
    given = stated.encode() if isinstance(stated, str) else b""
    blank = data.replace(given, _NO_SUM.encode(), 1) if len(given) == len(_NO_SUM) else b""
    if hashlib.sha256(blank).hexdigest() != stated:
        raise _refused(name, "changed since it was written: its SHA-256 does not hold", "as `dtesn-sidecar fit` wrote it")
    if loose.get("format") != FORMAT:
        raise _refused(f"{name}: format", repr(loose.get("format")), f"{FORMAT}, the only one that this version reads")
    try:
        return msgspec.convert(loose, _Document)
    except msgspec.ValidationError as error:
        raise _refused(f"{name}: {KEY}", f"not as the format defines it ({error})", f"a document of format {FORMAT}") from None


def _header(data: bytes, name: str) -> dict[str, Any]:
    wanted = "a safetensors file written by `dtesn-sidecar fit`"
    if len(data) > MAX_BYTES:
        raise _refused(name, f"over {MAX_BYTES} bytes", "a readout file of at most that")
    if len(data) < 8:
        raise _refused(name, f"{len(data)} bytes", wanted)
    (size,) = struct.unpack_from("<Q", data)
    if size > min(_MAX_HEADER, len(data) - 8):
        if data.startswith(_PICKLES):  # only a hint: the length of a good header may begin with the same two bytes
            raise _refused(name, "a pickle or an archive, which is never opened since loading one runs code", wanted)
        raise _refused(name, "no safetensors file (its first 8 bytes give no length of a header)", wanted)
    try:
        header = msgspec.json.decode(data[8 : 8 + size])
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        header = None
    if not isinstance(header, dict):
        raise _refused(name, "no safetensors file (its header is no JSON object)", wanted)
    return header


def _tensors(data: bytes, name: str) -> tuple[Any, Any]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors = load(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:  # the last three: a type of numbers that NumPy has not
        raise _refused(name, f"no safetensors file ({error})", "a safetensors file written by `dtesn-sidecar fit`") from None
    found = {key: f"{array.dtype}{list(array.shape)}" for key, array in tensors.items()}
    weights, intercept = tensors.get("weights"), tensors.get("intercept")
    if set(tensors) != {"weights", "intercept"} or weights is None or intercept is None:
        raise _refused(f"{name}: tensors", ", ".join(sorted(found)) or "none", "weights and intercept, and no other")
    if weights.dtype != np.float64 or weights.ndim != 2 or intercept.dtype != np.float64 or intercept.ndim != 1:
        raise _refused(f"{name}: tensors", str(found), "weights float64 with two axes and intercept float64 with one")
    return weights, intercept


def _label_problems(labels: tuple[str, ...], outputs: int, name: str) -> list[Problem]:
    found = []
    if len(labels) != outputs or outputs < 2:
        found.append(problem(f"{name}: labels", len(labels), f"{max(outputs, 2)} labels, one for each output"))
    if len(set(labels)) < len(labels):
        found.append(problem(f"{name}: labels", "repeated", "each label once"))
    if any(not 1 <= len(label) <= MAX_LABEL for label in labels):
        found.append(problem(f"{name}: labels", "empty or long", f"labels of 1 to {MAX_LABEL} characters"))
    return found


def _refused(field: str, value: str, expected: str) -> SpecInvalid:
    return SpecInvalid([Problem(field=field, value=value, expected=expected, message=f"{field} is {value}, but must be {expected}")])


def model_section(model: ModelConfiguration) -> dict[str, Any]:
    """The part of `spec.model` that serves a readout fitted for this model."""
    wire = to_wire(model)
    return {wire_name(name): wire[wire_name(name)] for name in _FITTED}


def named_readout(model: ModelConfiguration, source: ReadoutSource) -> Readout:
    """The readout that a model names, told of in the log. Raises SpecInvalid, as `load_readout` does."""
    readout = load_readout(path_of(source), model)
    kind = "regression" if readout.labels is None else f"classifier of {len(readout.labels)} labels"
    log.info("readout: a %s for membrane_depth %d and esn_size %d, sha256 %s", kind, readout.depth, readout.esn_size, readout.digest)
    if not readout.is_for(model.membrane_depth, model.esn_size):
        log.warning(
            "the readout is for membrane_depth %d and esn_size %d, the model's own are %d and %d: predictions are only for requests that "
            "name the readout's",
            readout.depth,
            readout.esn_size,
            model.membrane_depth,
            model.esn_size,
        )
    return readout
