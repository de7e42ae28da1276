"""Certificates and keys are checked at start, and a problem names the flag and the file."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from router.flags import ConfigError
from router.upstream.tls import server_context, worker_context
from tests.certificates import Authority


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


def test_without_a_certificate_the_server_speaks_plain_http() -> None:
    assert server_context(None, None) is None


def test_a_certificate_and_its_key_make_a_server(authority: Authority) -> None:
    pair = authority.issue("server")
    context = server_context(str(pair.cert), str(pair.key))
    assert context is not None
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2


def test_a_missing_file_is_named_with_its_flag(authority: Authority, tmp_path: Path) -> None:
    pair = authority.issue("server")
    gone = str(tmp_path / "gone.pem")
    with pytest.raises(ConfigError, match=r"--tls-cert-path: cannot read '.*gone\.pem': No such"):
        server_context(gone, str(pair.key))
    with pytest.raises(ConfigError, match=r"--tls-key-path: cannot read '.*gone\.pem': No such"):
        server_context(str(pair.cert), gone)


def test_a_key_of_another_certificate_is_refused(authority: Authority) -> None:
    one, other = authority.issue("one"), authority.issue("other")
    with pytest.raises(ConfigError, match=r"does not belong to the certificate in '.*one\.pem'"):
        server_context(str(one.cert), str(other.key))


def test_what_is_no_certificate_is_refused(authority: Authority, tmp_path: Path) -> None:
    pair = authority.issue("server")
    text = tmp_path / "text.pem"
    text.write_text("hello")
    with pytest.raises(ConfigError, match="--tls-cert-path, --tls-key-path: .* in PEM"):
        server_context(str(text), str(pair.key))
    with pytest.raises(ConfigError, match=r"--ca-cert-paths: '.*text\.pem' holds no certificate"):
        worker_context([str(text)], None, None)


def test_an_encrypted_key_is_refused_instead_of_asking_at_the_terminal(
    authority: Authority,
) -> None:
    pair = authority.issue("locked", password="secret")
    with pytest.raises(ConfigError, match=r"--client-key-path: the key in '.*' needs a password"):
        worker_context([], str(pair.cert), str(pair.key))


def test_workers_are_verified_by_the_systems_authorities_and_those_given(
    authority: Authority,
) -> None:
    plain = worker_context([], None, None)
    assert (plain.verify_mode, plain.check_hostname) == (ssl.CERT_REQUIRED, True)
    more = worker_context([str(authority.cert)], None, None)
    assert "test authority" in str(more.get_ca_certs())
    assert "test authority" not in str(plain.get_ca_certs())


def test_an_authority_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--ca-cert-paths: cannot read '.*none\.pem'"):
        worker_context([str(tmp_path / "none.pem")], None, None)
