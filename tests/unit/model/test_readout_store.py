"""The readout's file: what is written is read, and nothing else is."""

from __future__ import annotations

import hashlib
import os
import pickle
import struct
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from dtesn_api.names import READOUT_FOLDER
from dtesn_api.schema import wire_name
from dtesn_api.spec import ClaimPath, ConfigMapKey, ModelConfiguration, ReadoutSource, SpecInvalid
from dtesn_sidecar.model.readout import store
from dtesn_sidecar.model.readout.store import dump, load_readout, model_section, parse, path_of, save_readout
from dtesn_sidecar.model.readout.value import PINNED, OutputLayer, Readout

MODEL = ModelConfiguration(membrane_depth=1, esn_size=32, leak_rate=0.1 + 0.2, topology="ring")


def readout(outputs: int = 2, labels: tuple[str, ...] | None = ("a", "b"), model: ModelConfiguration = MODEL, seed: int = 0) -> Readout:
    random = np.random.default_rng(seed)
    width = 2 * model.membrane_depth * model.esn_size
    layer = OutputLayer(model.membrane_depth, model.esn_size, random.normal(size=(outputs, width)), random.normal(size=outputs))
    return Readout(model, layer, labels, 1.5, {"alpha": 0.1})


def with_sum(document: dict[str, object], tensors: dict[str, np.ndarray] | None = None) -> bytes:
    """A file whose sum holds, whatever else is in it: what somebody would write who knows the format."""
    layer = readout().layer
    tensors = {"weights": layer.weights, "intercept": layer.intercept} if tensors is None else tensors
    data = save(tensors, {store.KEY: msgspec.json.encode({**document, "sha256": "0" * 64}).decode()})
    return data.replace(b"0" * 64, hashlib.sha256(data).hexdigest().encode(), 1)


def document(**changes: object) -> dict[str, object]:
    whole = {"format": 1, "kind": "classification", "model": model_section(MODEL), "labels": ["a", "b"], "sharpness": 1.0}
    return {name: value for name, value in {**whole, **changes}.items() if value is not ...}


@settings(max_examples=25)
@given(
    st.integers(1, 4),
    st.sampled_from([32, 64]),
    st.integers(1, 3),
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20), min_size=2, max_size=5, unique=True) | st.none(),
)
def test_what_is_written_is_read_to_the_last_bit(outputs: int, size: int, depth: int, labels: list[str] | None) -> None:
    names = None if labels is None else tuple(labels)
    one = readout(outputs if names is None else len(names), names, ModelConfiguration(membrane_depth=depth, esn_size=size, seed=7))
    other = parse(dump(one), "file")
    np.testing.assert_array_equal(other.layer.weights, one.layer.weights)
    np.testing.assert_array_equal(other.layer.intercept, one.layer.intercept)
    assert (other.labels, other.sharpness, other.notes, other.depth, other.esn_size) == (names, 1.5, {"alpha": 0.1}, depth, size)
    assert all(getattr(other.model, name) == getattr(one.model, name) for name in PINNED)


def test_equal_readouts_have_equal_bytes() -> None:
    assert len({dump(readout()) for _ in range(20)}) == 1
    assert dump(readout(seed=1)) != dump(readout())


def test_every_flipped_bit_is_seen() -> None:
    data = bytearray(dump(readout(1, None)))
    assert len(data) < 3000
    for at in range(len(data)):
        for bit in range(8):
            data[at] ^= 1 << bit
            with pytest.raises(SpecInvalid):
                parse(bytes(data), "file")
            data[at] ^= 1 << bit
    parse(bytes(data), "file")


@given(st.integers(0, 2000), st.binary(max_size=8))
@settings(max_examples=50)
def test_a_file_that_is_cut_or_longer_is_refused(kept: int, more: bytes) -> None:
    data = dump(readout())
    changed = data[: min(kept, len(data) - 1)] + more
    if changed != data:
        with pytest.raises(SpecInvalid):
            parse(changed, "file")


class Trap:
    """Unpickling it would leave a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_is_refused_and_never_opened(protocol: int, tmp_path: Path) -> None:
    file, trace = tmp_path / "readout.safetensors", tmp_path / "executed"
    file.write_bytes(pickle.dumps(Trap(trace), protocol))
    with pytest.raises(SpecInvalid, match="pickle" if protocol >= 2 else "no safetensors file"):
        load_readout(file)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "0 bytes"),
        (b"PK\x03\x04 of PyTorch", "a pickle or an archive"),
        (struct.pack("<Q", 1 << 40) + b"{}", "no length of a header"),
        (struct.pack("<Q", 4) + b"[[[[", "header is no JSON"),
        (struct.pack("<Q", 2) + b"[]", "header is no JSON"),
        (save({"x": np.zeros(3)}), "without the metadata dtesn_readout"),
        (save({"x": np.zeros(3)}, {"dtesn_readout": "{"}), "no JSON"),
        (save({"x": np.zeros(3)}, {"dtesn_readout": "[]"}), "changed since it was written"),
        (save({"x": np.zeros(3)}, {"dtesn_readout": '{"sha256": ""}'}), "changed since it was written"),
        (save({"x": np.zeros(3)}, {"dtesn_readout": '{"format": 1, "sha256": 5}'}), "changed since it was written"),
        (with_sum(document(format=2)), "format is 2, but must be 1"),
        (with_sum(document(format=True)), "Expected `int`, got `bool`"),
        (with_sum(document(kind="guess")), "not as the format defines it"),
        (with_sum(document(surprise=1)), "not as the format defines it"),
        (with_sum(document(), {"weights": np.zeros((2, 64))}), "weights and intercept, and no other"),
        (with_sum(document(), {"weights": np.zeros((2, 64), np.float32), "intercept": np.zeros(2)}), "weights float64"),
        (with_sum(document(), {"weights": np.zeros((2, 60)), "intercept": np.zeros(2)}), "of the shape \\(2, 64\\)"),
        (with_sum(document(), {"weights": np.full((2, 64), np.nan), "intercept": np.zeros(2)}), "finite numbers"),
        (with_sum(document(labels=...)), "labels is 'absent'"),
        (with_sum(document(kind="regression")), "labels is 'given'"),
        (with_sum(document(labels=["a", "a"])), "each label once"),
        (with_sum(document(labels=["a", "b", "c"])), "2 labels, one for each output"),
        (with_sum(document(labels=["a", "b" * 300])), "labels of 1 to 256 characters"),
        (with_sum(document(sharpness=0)), "sharpness is 0"),
        (with_sum(document(model={**model_section(MODEL), "seed": -1})), "model.seed is -1"),
        (with_sum(document(model={**model_section(MODEL), "color": 1})), "model.color"),
        (with_sum(document(model={"esnSize": 32, "membraneDepth": 1})), "without seed, spectralRadius"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(data: bytes, words: str) -> None:
    with pytest.raises(SpecInvalid, match=words) as refused:
        parse(data, "/models/readout")
    assert all("/models/readout" in problem.message for problem in refused.value.problems)


def test_every_problem_of_a_file_is_listed() -> None:
    data = with_sum(document(labels=["a", "a", ""], sharpness=-1.0), {"weights": np.full((2, 60), np.inf), "intercept": np.zeros(2)})
    with pytest.raises(SpecInvalid) as refused:
        parse(data, "file")
    assert len(refused.value.problems) == 6


def test_a_file_over_the_bound_is_not_read_further(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "readout"
    save_readout(readout(), file)
    monkeypatch.setattr(store, "MAX_BYTES", 100)
    with pytest.raises(SpecInvalid, match="over 100 bytes"):
        load_readout(file)


CHANGED = ModelConfiguration(
    seed=1,
    spectral_radius=0.5,
    leak_rate=0.5,
    input_scaling=2,
    inter_scaling=2,
    bias=0,
    aggregation_exponent=1,
    order=2,
    topology="sparse",
    dtype="float64",
)


def test_every_field_that_changes_features_is_pinned_and_every_difference_named(tmp_path: Path) -> None:
    file = tmp_path / "readout"
    save_readout(readout(model=ModelConfiguration(membrane_depth=1, esn_size=32)), file)
    with pytest.raises(SpecInvalid) as refused:
        load_readout(file, CHANGED)
    assert {problem.field for problem in refused.value.problems} == {f"spec.model.{wire_name(name)}" for name in PINNED}
    assert "spec.model.leakRate is 0.5, but the readout was fitted with 0.3" in str(refused.value)
    assert set(PINNED) | {"name", "membrane_depth", "esn_size", "max_nodes", "max_model_bytes", "readout"} == set(
        ModelConfiguration.__struct_fields__
    )


def test_depth_size_name_and_bounds_may_be_the_servers_own(tmp_path: Path) -> None:
    file = tmp_path / "readout"
    save_readout(readout(model=ModelConfiguration(membrane_depth=1, esn_size=32)), file)
    loaded = load_readout(file, ModelConfiguration(name="other", membrane_depth=3, esn_size=64, max_nodes=9, max_model_bytes=5))
    assert loaded.is_for(1, 32)
    assert not loaded.is_for(3, 64)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "readout"
    digest = save_readout(readout(), file)
    before = file.read_bytes()
    assert digest.encode() in before

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        save_readout(readout(seed=1), file)
    assert file.read_bytes() == before
    assert os.listdir(tmp_path) == ["readout"]


@pytest.mark.parametrize(
    ("source", "path"),
    [
        (ReadoutSource(path="/models/r"), "/models/r"),
        (ReadoutSource(config_map=ConfigMapKey(name="a", key="r.safetensors")), f"{READOUT_FOLDER}/r.safetensors"),
        (ReadoutSource(persistent_volume_claim=ClaimPath(claim_name="a", path="/fits/r")), f"{READOUT_FOLDER}/fits/r"),
    ],
)
def test_a_source_has_one_place(source: ReadoutSource, path: str) -> None:
    assert str(path_of(source)) == path
