"""The webhook's own certificate authority and serving certificate: made, kept in a Secret, replaced in time. Pure.

A new authority is announced before it signs: first it joins the bundle that the API server trusts, and only when that has
been published for a while it signs the serving certificate; the old one leaves the bundle later. So no moment comes at
which the API server is shown a certificate that it does not trust, whichever replica answers.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from ipaddress import ip_address
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_LIFE: Final = timedelta(days=730)
SERVING_LIFE: Final = timedelta(days=180)
SETTLE: Final = timedelta(minutes=15)  # for every API server and every replica to read what was published
_SKEW: Final = timedelta(hours=1)  # of clocks; certificates are valid since that long before they were made
_RENEW_AT: Final = 2 / 3  # of a life


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its private key, both PEM."""

    certificate: bytes
    key: bytes


@dataclass(frozen=True, slots=True)
class Certificates:
    """`authority` signed `serving`; `coming` is announced and will sign next; `leaving` (PEM certificates) signed before."""

    authority: Pair
    serving: Pair
    coming: Pair | None = None
    leaving: bytes = b""

    @property
    def bundle(self) -> bytes:
        """What the API server trusts: PEM certificates."""
        return self.authority.certificate + (self.coming.certificate if self.coming else b"") + self.leaving


def advance(known: Certificates | None, hosts: Sequence[str], now: datetime, *, published: bool) -> Certificates:
    """The next state, the same one where there is nothing to do. `published`: the API server has `known`'s bundle."""
    if known is None or _expired(known.authority.certificate, now):
        authority = new_authority(now)
        return Certificates(authority, new_serving(authority, hosts, now))
    if known.coming is not None and published and now - _made(known.coming.certificate) >= SETTLE:
        return Certificates(known.coming, new_serving(known.coming, hosts, now), leaving=known.authority.certificate)
    if known.coming is None and _aged(known.authority.certificate, now):
        return replace(known, coming=new_authority(now))
    if _aged(known.serving.certificate, now) or _hosts(known.serving.certificate) != set(hosts):
        return replace(known, serving=new_serving(known.authority, hosts, now))
    if known.leaving and now - _made(known.serving.certificate) >= SETTLE:
        return replace(known, leaving=b"")
    return known


def new_authority(now: datetime) -> Pair:
    """A self-signed authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"dtesn-webhook-{x509.random_serial_number() % 16**8:08x}")])
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    made = (
        _builder(name, name, key.public_key(), key.public_key(), now, AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
    )
    return _pair(made.sign(key, hashes.SHA256()), key)


def new_serving(authority: Pair, hosts: Sequence[str], now: datetime) -> Pair:
    """A serving certificate for these DNS names and addresses, no longer valid than its authority."""
    issuer = x509.load_pem_x509_certificate(authority.certificate)
    issuer_key = serialization.load_pem_private_key(authority.key, None)
    if not isinstance(issuer_key, ec.EllipticCurvePrivateKey):
        raise TypeError("the authority's key is not one that this module made")
    key = ec.generate_private_key(ec.SECP256R1())
    life = min(SERVING_LIFE, issuer.not_valid_after_utc - now)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "dtesn-webhook")])
    made = (
        _builder(subject, issuer.subject, key.public_key(), issuer_key.public_key(), now, life)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([_general(host) for host in hosts]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    )
    return _pair(made.sign(issuer_key, hashes.SHA256()), key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, signer: ec.EllipticCurvePublicKey, now: datetime, life: timedelta
) -> x509.CertificateBuilder:
    made = x509.CertificateBuilder(
        subject_name=subject,
        issuer_name=issuer,
        public_key=key,
        serial_number=x509.random_serial_number(),
        not_valid_before=now - _SKEW,
        not_valid_after=now + life,
    )
    # Strict clients, such as Python 3.13's, take no certificate without them.
    return made.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False).add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(signer), critical=False
    )


def _pair(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Pair:
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Pair(certificate.public_bytes(pem), private)


def _general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _hosts(certificate: bytes) -> set[str]:
    names = x509.load_pem_x509_certificate(certificate).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return {str(name.value) for name in names.value}


def _made(certificate: bytes) -> datetime:
    return x509.load_pem_x509_certificate(certificate).not_valid_before_utc + _SKEW


def _expired(certificate: bytes, now: datetime) -> bool:
    return now >= x509.load_pem_x509_certificate(certificate).not_valid_after_utc


def _aged(certificate: bytes, now: datetime) -> bool:
    made, ends = _made(certificate), x509.load_pem_x509_certificate(certificate).not_valid_after_utc
    return now >= made + (ends - made) * _RENEW_AT


# -- as the data of a Secret ---------------------------------------------------------------------------------------------------


def to_data(state: Certificates) -> dict[str, str]:
    """`data` of the Secret."""
    parts = {
        "ca.crt": state.authority.certificate,
        "ca.key": state.authority.key,
        "tls.crt": state.serving.certificate,
        "tls.key": state.serving.key,
    }
    if state.coming is not None:
        parts |= {"coming.crt": state.coming.certificate, "coming.key": state.coming.key}
    if state.leaving:
        parts["leaving.crt"] = state.leaving
    return {name: b64encode(part).decode() for name, part in parts.items()}


def from_data(data: Mapping[str, str]) -> Certificates | None:
    """What such data say, or None where something is missing or is not what it should be: then all is made anew."""
    try:
        parts = {name: b64decode(part, validate=True) for name, part in data.items()}
        found = Certificates(
            Pair(parts["ca.crt"], parts["ca.key"]),
            Pair(parts["tls.crt"], parts["tls.key"]),
            Pair(parts["coming.crt"], parts["coming.key"]) if "coming.crt" in parts else None,
            parts.get("leaving.crt", b""),
        )
        for pair in (found.authority, found.serving, *([found.coming] if found.coming else [])):
            _check(pair)
        issuer = x509.load_pem_x509_certificate(found.authority.certificate)
        x509.load_pem_x509_certificate(found.serving.certificate).verify_directly_issued_by(issuer)
    except (KeyError, ValueError, TypeError, x509.ExtensionNotFound, InvalidSignature):
        return None
    return found


def _check(pair: Pair) -> None:
    """Raises ValueError where the key is not the certificate's."""
    certificate = x509.load_pem_x509_certificate(pair.certificate)
    if serialization.load_pem_private_key(pair.key, None).public_key() != certificate.public_key():
        raise ValueError("the key is not the certificate's")
