"""What was last seen: versions never go back, names are told apart by UID, and what is gone stays gone."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtesn_operator.kinds import CONFIG_MAP, ObjectKey, key_of
from dtesn_operator.store import Key, Store


def config_map(version: int, uid: str = "u1", text: str = "", name: str = "demo") -> dict[str, Any]:
    labels = {"app.kubernetes.io/instance": "demo"}
    metadata = {"namespace": "shop", "name": name, "uid": uid, "resourceVersion": str(version), "labels": labels}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"text": text}}


KEY = ObjectKey(CONFIG_MAP, "shop", "demo")


def text_of(store: Store) -> str | None:
    found = store.get(KEY)
    return None if found is None else found["data"]["text"]


def test_an_older_version_never_replaces_a_newer_one() -> None:
    store = Store()
    assert store.seen(config_map(2, text="new"))
    assert not store.seen(config_map(1, text="old"))
    assert text_of(store) == "new"


def test_the_event_of_our_own_write_says_nothing_new() -> None:
    store = Store()
    assert store.seen(config_map(2, text="a"))
    assert not store.seen(config_map(2, text="a"))


def test_an_object_made_anew_replaces_its_namesake() -> None:
    store = Store()
    store.seen(config_map(9, uid="u1", text="first"))
    assert store.seen(config_map(10, uid="u2", text="second"))
    assert text_of(store) == "second"


def test_the_end_of_a_namesake_does_not_end_the_object() -> None:
    store = Store()
    store.seen(config_map(9, uid="u2"))
    assert not store.gone(config_map(8, uid="u1"))
    assert store.get(KEY) is not None


@pytest.mark.parametrize("seen_before", [True, False])
def test_a_late_event_of_a_namesake_that_went_before_replaces_nothing(seen_before: bool) -> None:
    store = Store()
    if seen_before:
        store.seen(config_map(7, uid="u1", text="first"))
    store.seen(config_map(9, uid="u2", text="second"))
    assert not store.seen(config_map(8, uid="u1", text="first, on its way out"))
    assert not store.gone(config_map(8, uid="u1"))
    assert text_of(store) == "second"


def test_a_late_answer_does_not_bring_back_what_is_gone() -> None:
    store = Store()
    store.seen(config_map(1))
    store.gone(config_map(3))
    assert not store.seen(config_map(2))
    assert store.get(KEY) is None


def test_an_object_that_lost_our_label_and_got_it_again_is_known_again() -> None:
    store = Store()
    store.seen(config_map(1))
    store.gone(config_map(2))
    assert store.seen(config_map(3))
    assert store.get(KEY) is not None


def test_ghosts_are_those_that_a_listing_did_not_find_and_that_are_not_newer_than_it() -> None:
    store = Store()
    for name, version in (("alive", 1), ("dead", 2), ("young", 11), ("replaced", 3)):
        store.seen(config_map(version, uid=f"uid-{name}", name=name))
    keys = [ObjectKey(CONFIG_MAP, "shop", name) for name in ("alive", "dead", "young", "replaced")]
    alive = {keys[0]: "uid-alive", keys[3]: "another"}
    assert sorted(one["metadata"]["name"] for one in store.ghosts(keys, alive, before=10)) == ["dead", "replaced"]


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 9), st.sampled_from(["u1", "u2"])), max_size=12))
def test_what_is_owned_is_what_is_known(events: list[tuple[bool, int, str]]) -> None:
    store = Store()
    for came, version, uid in events:
        (store.seen if came else store.gone)(config_map(version, uid))
    known = store.get(KEY)
    assert store.owned(Key("shop", "demo")) == ({} if known is None else {key_of(known): known})


def test_what_lost_its_label_and_was_read_since_is_known_at_the_same_version() -> None:
    store = Store()
    store.seen(config_map(1))
    store.gone(config_map(2))
    assert store.alive(config_map(2))
    assert list(store.owned(Key("shop", "demo"))) == [KEY]


def test_an_object_is_its_controllers_whatever_its_labels_say() -> None:
    store = Store()
    owner = {"apiVersion": "dtesn.dev/v1alpha1", "kind": "DTESNBatcher", "name": "demo", "uid": "u", "controller": True}
    manifest = config_map(1)
    manifest["metadata"] |= {"ownerReferences": [owner], "labels": {"app.kubernetes.io/instance": "another"}}
    store.seen(manifest)
    assert list(store.owned(Key("shop", "demo"))) == [KEY]


def test_an_object_whose_label_changed_is_no_longer_the_former_ones() -> None:
    store = Store()
    store.seen(config_map(1))
    changed = config_map(2)
    changed["metadata"]["labels"] = {"app.kubernetes.io/instance": "another"}
    store.seen(changed)
    assert store.owned(Key("shop", "demo")) == {}
    store.gone(changed)
    assert store.owned(Key("shop", "another")) == {}


def test_whatever_changes_is_a_change_of_the_resource_that_it_is_about_and_of_no_other() -> None:
    store, demo, other = Store(), Key("shop", "demo"), Key("shop", "another")
    marks = [store.changed_at(demo)]

    def changes() -> bool:
        marks.append(store.changed_at(demo))
        return marks[-1] != marks[-2]

    store.seen(config_map(1))
    assert changes()
    store.seen(config_map(2))
    assert not changes()  # its version alone
    store.seen(config_map(3, text="new"))
    assert changes()
    store.seen(config_map(4, name="second"))
    assert changes()
    assert store.changed_at(other) == 0
    moved = config_map(5, text="new")
    moved["metadata"]["labels"] = {"app.kubernetes.io/instance": "another"}
    store.seen(moved)
    assert changes()
    assert store.changed_at(other) != 0
    store.gone(config_map(6, name="second"))
    assert (changes(), store.changed_at(demo)) == (True, 0)  # nothing is left of it
