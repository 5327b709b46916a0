"""The webhook's certificates: how they are renewed, and kept where all replicas find them."""

from __future__ import annotations

from base64 import b64decode, b64encode
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from dtesn_operator.kinds import Kind, Manifest, ObjectKey
from dtesn_operator.webhook.certificates import SETTLE, Certificates, advance, from_data, new_authority, new_serving, to_data
from dtesn_operator.webhook.keeper import CONFIGURATION, SECRET, Place, keep
from dtesn_operator.webhook.keeper import trusting as trusted

HOSTS = ("dtesn-webhook.dtesn-system.svc", "127.0.0.1")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
FIRST = advance(None, HOSTS, datetime.now(UTC), published=False)


def issuer_of(state: Certificates) -> x509.Certificate:
    """The certificate of the bundle that the serving certificate is verified by."""
    certificate = x509.load_pem_x509_certificate(state.serving.certificate)
    (found,) = [one for one in x509.load_pem_x509_certificates(state.bundle) if one.subject == certificate.issuer]
    certificate.verify_directly_issued_by(found)
    return found


def test_all_is_made_at_the_first_time_and_then_left_for_long() -> None:
    first = advance(None, HOSTS, NOW, published=False)
    assert first.bundle == first.authority.certificate
    assert advance(first, HOSTS, NOW + timedelta(days=100), published=True) == first


@settings(max_examples=20)
@given(st.lists(st.tuples(st.integers(1, 40), st.booleans()), min_size=40, max_size=120))
def test_over_years_what_is_served_is_trusted_by_the_bundle_that_was_published_last(steps: list[tuple[int, bool]]) -> None:
    now, state = NOW, advance(None, HOSTS, NOW, published=False)
    published = state.bundle
    for days, reachable in steps:
        now += timedelta(days=days)
        after = advance(state, HOSTS, now, published=published == state.bundle)
        serving = x509.load_pem_x509_certificate(after.serving.certificate)
        assert serving.not_valid_before_utc <= now < serving.not_valid_after_utc
        assert issuer_of(after).not_valid_after_utc >= serving.not_valid_after_utc
        if after.authority == state.authority or state.coming == after.authority:
            assert any(one.subject == serving.issuer for one in x509.load_pem_x509_certificates(published)), "not trusted yet"
        state = after
        published = state.bundle if reachable else published


def test_a_new_authority_is_announced_settles_signs_and_lets_the_old_one_go() -> None:
    first = advance(None, HOSTS, NOW, published=False)
    late = NOW + timedelta(days=500)
    announced = advance(first, HOSTS, late, published=True)
    assert announced.authority == first.authority
    assert announced.coming is not None
    assert announced.bundle == first.authority.certificate + announced.coming.certificate
    assert announced.serving == first.serving
    waiting = advance(announced, HOSTS, late + SETTLE / 2, published=True)
    assert waiting.coming == announced.coming
    assert waiting.authority == first.authority
    assert advance(announced, HOSTS, late + SETTLE, published=False).authority == first.authority
    signed = advance(announced, HOSTS, late + SETTLE, published=True)
    assert signed.authority == announced.coming
    assert signed.leaving == first.authority.certificate
    assert advance(signed, HOSTS, late + SETTLE * 1.5, published=True) == signed
    done = advance(signed, HOSTS, late + SETTLE * 2, published=True)
    assert done == Certificates(signed.authority, signed.serving)


def test_a_serving_certificate_is_renewed_in_time_and_for_other_names() -> None:
    first = advance(None, HOSTS, NOW, published=False)
    renewed = advance(first, HOSTS, NOW + timedelta(days=130), published=True)
    assert renewed.authority == first.authority
    assert renewed.serving != first.serving
    assert advance(first, ("other.svc",), NOW, published=True).serving != first.serving


def test_after_a_gap_of_years_all_is_made_anew() -> None:
    first = advance(None, HOSTS, NOW, published=False)
    assert advance(first, HOSTS, NOW + timedelta(days=800), published=True).authority != first.authority


def test_a_secret_holds_every_state() -> None:
    authority, coming = new_authority(NOW), new_authority(NOW)
    for state in (
        Certificates(authority, new_serving(authority, HOSTS, NOW)),
        Certificates(authority, new_serving(authority, HOSTS, NOW), coming=coming),
        Certificates(authority, new_serving(authority, HOSTS, NOW), leaving=coming.certificate),
    ):
        assert from_data(to_data(state)) == state


@pytest.mark.parametrize("name", ["ca.crt", "ca.key", "tls.crt", "tls.key"])
@pytest.mark.parametrize("content", [None, "", "!", b64encode(b"text").decode(), "of another"])
def test_a_secret_that_someone_spoilt_counts_as_none(name: str, content: str | None) -> None:
    other = to_data(advance(None, HOSTS, NOW, published=False))
    data = to_data(FIRST) | {name: other[name] if content == "of another" else content}
    assert from_data({key: value for key, value in data.items() if value is not None}) is None


# -- keeping them --------------------------------------------------------------------------------------------------------------


class Cluster:
    """Objects in memory with versions, as the API server keeps them; the real one is in the tests of a cluster."""

    def __init__(self, *webhooks: str) -> None:
        self.objects: dict[ObjectKey, Manifest] = {}
        self.writes = 0
        if webhooks:
            listed = [{"name": name, "clientConfig": {"url": "https://a"}} for name in webhooks]
            self._put({"metadata": {"name": "dtesn"}, "webhooks": listed}, CONFIGURATION, None)

    async def get(self, key: ObjectKey) -> Manifest | None:
        found = self.objects.get(key)
        return None if found is None else msgspec.json.decode(msgspec.json.encode(found))

    async def create(self, manifest: Manifest, kind: Kind) -> Manifest:
        return self._put(manifest, kind, None)

    async def replace(self, manifest: Manifest, kind: Kind) -> Manifest:
        return self._put(manifest, kind, manifest["metadata"]["resourceVersion"])

    def _put(self, manifest: Manifest, kind: Kind, version: str | None) -> Manifest:
        key = ObjectKey(kind, manifest["metadata"].get("namespace", ""), manifest["metadata"]["name"])
        there = self.objects.get(key)
        if (None if there is None else there["metadata"]["resourceVersion"]) != version:
            raise ConnectionError("409")
        self.writes += 1
        self.objects[key] = {**manifest, "metadata": {**manifest["metadata"], "resourceVersion": str(self.writes)}}
        return self.objects[key]


PLACE = Place("dtesn-system", "dtesn-webhook", "dtesn", HOSTS)


def bundles(cluster: Cluster) -> set[bytes]:
    return {
        b64decode(one["clientConfig"].get("caBundle", "")) for one in cluster.objects[ObjectKey(CONFIGURATION, "", "dtesn")]["webhooks"]
    }


async def test_the_first_step_stores_and_publishes_and_the_next_writes_nothing() -> None:
    cluster = Cluster("a", "b")
    state = await keep(cluster, PLACE, NOW)
    assert bundles(cluster) == {state.bundle}
    writes = cluster.writes
    assert await keep(cluster, PLACE, NOW + timedelta(days=1)) == state
    assert cluster.writes == writes


async def test_a_second_replica_serves_what_the_first_one_made() -> None:
    cluster = Cluster("a")
    assert await keep(cluster, PLACE, NOW) == await keep(cluster, PLACE, NOW)


async def test_of_two_that_write_at_once_one_fails_and_then_agrees() -> None:
    class Late(Cluster):
        async def get(self, key: ObjectKey) -> Manifest | None:
            found = await super().get(key)
            if key.kind == SECRET and found is None and len(self.objects) == 1:
                await keep(self_as_first, PLACE, NOW)
            return found

    cluster = Late("a")
    self_as_first = Cluster("a")
    self_as_first.objects = cluster.objects
    with pytest.raises(ConnectionError, match="409"):
        await keep(cluster, PLACE, NOW)
    state = await keep(cluster, PLACE, NOW)
    assert bundles(cluster) == {state.bundle}


async def test_without_a_configuration_nothing_is_announced_that_nobody_trusts() -> None:
    cluster = Cluster()
    state = await keep(cluster, PLACE, NOW)
    late = NOW + timedelta(days=500)
    announced = await keep(cluster, PLACE, late)
    assert announced.authority == state.authority
    assert (await keep(cluster, PLACE, late + SETTLE * 3)).authority == state.authority


async def test_a_whole_rotation_through_the_api() -> None:
    cluster = Cluster("a")
    first = await keep(cluster, PLACE, NOW)
    late = NOW + timedelta(days=500)
    await keep(cluster, PLACE, late)
    second = await keep(cluster, PLACE, late + SETTLE)
    assert second.authority != first.authority
    assert bundles(cluster) == {second.authority.certificate + first.authority.certificate}
    done = await keep(cluster, PLACE, late + SETTLE * 2)
    assert bundles(cluster) == {done.authority.certificate}


async def test_a_bundle_that_someone_removed_is_published_again() -> None:
    cluster = Cluster("a", "b")
    state = await keep(cluster, PLACE, NOW)
    configuration = cluster.objects[ObjectKey(CONFIGURATION, "", "dtesn")]
    del configuration["webhooks"][1]["clientConfig"]["caBundle"]
    assert trusted(configuration, state.bundle) is not None
    await keep(cluster, PLACE, NOW)
    assert bundles(cluster) == {state.bundle}
