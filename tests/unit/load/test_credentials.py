"""Files of credentials and certificates: what they grant, and what is said where they do not."""

from __future__ import annotations

import base64
import os
import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from tests.integration.prometheus_server import Authority

from dtesn_api.spec import PrometheusAuth, PrometheusTls
from dtesn_sidecar.load import NoData
from dtesn_sidecar.load.credentials import MOST_BYTES, Access, access_reader


@pytest.fixture
def token(tmp_path: Path) -> Path:
    return tmp_path / "secrets" / "monitoring" / "token"


def read(token: Path) -> Access | NoData:
    return access_reader(PrometheusAuth(bearer_token_file=str(token)), None, token.parents[1])()


def why(token: Path) -> str:
    found = read(token)
    assert isinstance(found, NoData)
    return found.reason


def test_without_auth_and_tls_nothing_is_carried() -> None:
    assert access_reader(None, None)() == Access()
    assert access_reader(PrometheusAuth(), None)() == Access()


def test_a_token_is_read_anew_each_time_and_is_not_to_be_shown(token: Path) -> None:
    token.parent.mkdir(parents=True)
    reader = access_reader(PrometheusAuth(bearer_token_file=str(token)), None)
    for text in ("one", "two"):
        token.write_text(f" {text}\n")
        assert reader() == Access({"Authorization": f"Bearer {text}"}, None, (text,))


def test_user_name_and_password_are_those_of_rfc_7617(tmp_path: Path) -> None:
    user, password = tmp_path / "user", tmp_path / "password"
    user.write_text("Aladdin\n")
    password.write_text("open sesame\n")
    reader = access_reader(PrometheusAuth(username_file=str(user), password_file=str(password)), None)
    assert reader().headers == {"Authorization": "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="}
    assert {"open sesame", base64.b64encode(b"Aladdin:open sesame").decode()} <= set(reader().hidden)
    user.write_text("a:b")
    assert reader() == NoData(f"file {user}: a user name cannot contain ':' (RFC 7617)")


def test_what_is_missing_of_a_secret_is_named_by_secret_and_key(token: Path) -> None:
    assert why(token) == "secret monitoring, key token missing"
    token.parent.parent.mkdir()
    token.parent.touch()  # a file where the Secret's folder should be
    assert why(token) == "secret monitoring, key token missing"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b" \n\n", "empty"),
        (b"\xff\xfe", "not UTF-8"),
        (b"two\nlines", "has characters that cannot be sent (control characters, or other than ASCII)"),
        (b"in\r\njected: header", "has characters that cannot be sent (control characters, or other than ASCII)"),
        ("schl\u00fcssel".encode(), "has characters that cannot be sent (control characters, or other than ASCII)"),
        (b"x" * (MOST_BYTES + 1), "more than 65536 bytes"),
    ],
)
def test_what_cannot_be_sent_is_no_data_and_is_not_shown(token: Path, content: bytes, reason: str) -> None:
    token.parent.mkdir(parents=True)
    token.write_bytes(content)
    assert why(token) == f"secret monitoring, key token: {reason}"


def test_what_is_no_file_is_no_data_and_holds_up_nobody(token: Path) -> None:
    token.mkdir(parents=True)
    assert why(token) == "secret monitoring, key token: Is a directory"
    token.rmdir()
    os.mkfifo(token)
    assert why(token) == "secret monitoring, key token: not a regular file"


@given(st.binary(max_size=60))
def test_whatever_a_file_holds_the_header_is_one_line_of_ascii(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    token = tmp_path_factory.getbasetemp() / "secrets" / "any" / "token"
    token.parent.mkdir(parents=True, exist_ok=True)
    token.write_bytes(content)
    found = read(token)
    if isinstance(found, Access):
        assert found.headers["Authorization"].isascii()
        assert found.headers["Authorization"].isprintable()


def test_a_tls_context_is_kept_until_one_of_its_files_changes(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    cert, key = authority.issue("client", "sidecar")
    reader = access_reader(None, PrometheusTls(ca_file=authority.ca_file, cert_file=cert, key_file=key))
    first = reader().tls
    assert isinstance(first, ssl.SSLContext)
    assert first.verify_mode is ssl.CERT_REQUIRED
    assert first.check_hostname
    assert reader().tls is first
    authority.issue("client", "sidecar")
    assert reader().tls is not first


def test_certificates_that_cannot_be_used_are_no_data(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    cert, _ = authority.issue("client", "sidecar")
    _, other_key = authority.issue("other", "sidecar")
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("no certificate")
    encrypted = tmp_path / "encrypted.pem"
    encrypted.write_bytes(
        ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"a word")
        )
    )

    def reason(**tls: str) -> str:
        return access_reader(None, PrometheusTls(**tls), tmp_path / "secrets")().reason

    assert reason(ca_file=str(garbage)).startswith(f"TLS: {garbage}: ")
    assert "KEY_VALUES_MISMATCH" in reason(cert_file=cert, key_file=other_key)
    assert "the key is encrypted, and there is no password to give" in reason(cert_file=cert, key_file=str(encrypted))
    assert reason(ca_file=str(tmp_path / "secrets/internal-ca/ca.crt")) == "secret internal-ca, key ca.crt missing"
    assert reason(ca_file="/proc/self/mem/x") == "file /proc/self/mem/x missing"
