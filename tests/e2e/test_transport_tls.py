"""TLS, mutual TLS and tokens of the native transport, and what happens when their files change."""

import http.client
import json
import shutil
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from enricher._native import Queue
from enricher.config.model.security import BearerAuth, ServerTls
from enricher.otlp.native_receiver import Listening, NativeReceiver, UnfitListenerError
from enricher.otlp.transport import EXPORT_METHOD
from tests.e2e.certificates import Authority, Identity
from tests.e2e.receiving import LIMITS, Status, failed, new_queue, opened, outcomes, serving
from tests.e2e.testbed.processes import wait_until
from tests.e2e.transport import request

SOON_NS = 20_000_000


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def secured(identity: Identity, authority: Authority | None = None) -> ServerTls:
    """With `authority`: clients must have a certificate of it."""
    return ServerTls(
        cert_file=str(identity.certificate),
        key_file=str(identity.key),
        client_ca_file=str(authority.certificate) if authority else None,
        reload_interval_ns=SOON_NS,
    )


@contextmanager
def channel(
    port: int, authority: Authority, identity: Identity | None = None
) -> Iterator[grpc.UnaryUnaryMultiCallable]:
    credentials = grpc.ssl_channel_credentials(
        authority.certificate.read_bytes(),
        identity.key.read_bytes() if identity else None,
        identity.certificate.read_bytes() if identity else None,
    )
    options = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials, options) as made:
        yield made.unary_unary(EXPORT_METHOD)


def certificate_of(port: int) -> bytes:
    return ssl.get_server_certificate(("127.0.0.1", port), timeout=10).encode()


def test_requests_come_over_tls_by_grpc_and_by_http(authority: Authority) -> None:
    queue = new_queue()
    tls = secured(authority.issue("receiver"))
    at_grpc, grpc_port = opened("grpc", tls=tls)
    at_http, http_port = opened("http", tls=tls)
    trusting = ssl.create_default_context(cafile=str(authority.certificate))
    with serving(at_grpc, at_http, queue=queue):
        with channel(grpc_port, authority) as export:
            assert export(request("a")) == b""
        over_http = http.client.HTTPSConnection("127.0.0.1", http_port, context=trusting, timeout=10)
        over_http.request("POST", "/v1/traces", request("b"), {"content-type": "application/x-protobuf"})
        assert over_http.getresponse().status == 200
        over_http.close()
    assert outcomes(queue) == {"accepted": 2}


def test_http2_is_agreed_upon_where_it_is_offered(authority: Authority) -> None:
    tls = secured(authority.issue("receiver"))
    at_grpc, grpc_port = opened("grpc", tls=tls)
    at_http, http_port = opened("http", tls=tls)
    found = []
    with serving(at_grpc, at_http, queue=new_queue()):
        for port, offered in ((grpc_port, ["h2"]), (http_port, ["h2", "http/1.1"]), (http_port, ["http/1.1"])):
            trusting = ssl.create_default_context(cafile=str(authority.certificate))
            trusting.set_alpn_protocols(offered)
            with (
                socket.create_connection(("127.0.0.1", port), 10) as line,
                trusting.wrap_socket(line, server_hostname="localhost") as secure,
            ):
                found.append(secure.selected_alpn_protocol())
    assert found == ["h2", "h2", "http/1.1"]


def test_who_speaks_without_tls_is_turned_away(authority: Authority) -> None:
    endpoint, port = opened("grpc", tls=secured(authority.issue("receiver")))
    with serving(endpoint, queue=new_queue()) as server:
        with socket.create_connection(("127.0.0.1", port), 10) as line:
            line.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            while line.recv(4096):
                pass
        wait_until(lambda: server.statistics()["tls_failures"] == 1, "the failure to be counted")


def test_old_versions_of_tls_are_not_spoken(authority: Authority) -> None:
    endpoint, port = opened("grpc", tls=secured(authority.issue("receiver")))
    with serving(endpoint, queue=new_queue()):
        old = ssl.create_default_context(cafile=str(authority.certificate))
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        with socket.create_connection(("127.0.0.1", port), 10) as line, pytest.raises(OSError):
            old.wrap_socket(line, server_hostname="localhost")


def test_with_an_authority_only_its_clients_get_in(authority: Authority, tmp_path: Path) -> None:
    queue = new_queue()
    (tmp_path / "other").mkdir()
    stranger = Authority(tmp_path / "other", "stranger")
    endpoint, port = opened("grpc", tls=secured(authority.issue("receiver"), authority))
    with serving(endpoint, queue=queue) as server:
        with channel(port, authority, authority.issue("client")) as export:
            assert export(request("a")) == b""
        for identity in (None, stranger.issue("client"), authority.issue("expired", expired=True)):
            with channel(port, authority, identity) as export:
                assert failed(lambda export=export: export(request("b"))).code() is grpc.StatusCode.UNAVAILABLE
        wait_until(lambda: server.statistics()["tls_failures"] >= 3, "the failures to be counted")
    assert outcomes(queue) == {"accepted": 1}


def replace(files: Identity, by: Identity) -> None:
    shutil.copy(by.certificate, files.certificate)
    shutil.copy(by.key, files.key)


def test_a_new_certificate_is_used_for_new_connections_and_old_ones_stay(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    files, next_one = authority.issue("receiver"), authority.issue("next")
    endpoint, port = opened("grpc", tls=secured(files))
    with serving(endpoint, queue=new_queue()) as server, channel(port, authority) as export:
        export(request("a"))
        accepted = server.statistics()["connections_accepted"]
        first = certificate_of(port)
        replace(files, next_one)
        wait_until(lambda: certificate_of(port) != first, "the new certificate")
        assert certificate_of(port).split() == next_one.certificate.read_bytes().split()
        before = server.statistics()["connections_accepted"]
        export(request("b"))  # over the connection that was there before
        assert server.statistics()["connections_accepted"] == before > accepted
        assert server.statistics()["reloads"] >= 1


def test_an_unfit_certificate_changes_nothing_and_is_told_once(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    files, other = authority.issue("receiver"), authority.issue("other")
    endpoint, port = opened("grpc", tls=secured(files))
    with serving(endpoint, queue=new_queue()) as server:
        first = certificate_of(port)
        files.key.write_bytes(other.key.read_bytes())  # of another certificate
        wait_until(lambda: server.statistics()["failed_reloads"] == 1, "the mistake to be seen")
        assert certificate_of(port) == first
        files.certificate.write_text("no certificate")
        wait_until(lambda: server.statistics()["failed_reloads"] == 2, "the next mistake to be seen")
        assert certificate_of(port) == first
        wait_until(lambda: caplog.text.count("unfit") >= 2, "both to be told")
        replace(files, other)
        wait_until(lambda: certificate_of(port) != first, "the certificate that is fit")
    assert caplog.text.count("unfit") <= 3  # the two files are not replaced at once


def test_a_client_whose_authority_is_trusted_no_more_does_not_get_in_again(
    authority: Authority, tmp_path: Path
) -> None:
    (tmp_path / "new").mkdir()
    successor = Authority(tmp_path / "new", "successor")
    trusted = tmp_path / "trusted.pem"
    shutil.copy(authority.certificate, trusted)
    tls = secured(authority.issue("receiver"))
    tls = ServerTls(
        cert_file=tls.cert_file, key_file=tls.key_file, client_ca_file=str(trusted), reload_interval_ns=SOON_NS
    )
    before, after = authority.issue("client"), successor.issue("client")
    endpoint, port = opened("grpc", tls=tls)
    with serving(endpoint, queue=new_queue()) as server:
        with channel(port, authority, before) as export:
            export(request("a"))
        shutil.copy(successor.certificate, trusted)
        wait_until(lambda: server.statistics()["reloads"] == 1, "the new authority to be read")
        with channel(port, authority, before) as export:
            assert failed(lambda: export(request("a"))).code() is grpc.StatusCode.UNAVAILABLE
        with channel(port, authority, after) as export:
            assert export(request("a")) == b""


def _receiver(listening: Listening, queue: Queue) -> NativeReceiver:
    return NativeReceiver(queue, [listening], LIMITS, Status())


@pytest.mark.parametrize("unfit", ["missing", "junk", "mismatch", "folder"])
def test_unfit_files_are_told_before_the_start(unfit: str, authority: Authority, tmp_path: Path) -> None:
    files = authority.issue("receiver")
    if unfit == "missing":
        files.key.unlink()
    elif unfit == "junk":
        files.certificate.write_bytes(b"junk")
    elif unfit == "mismatch":
        files.key.write_bytes(authority.issue("other").key.read_bytes())
    else:
        files.key.unlink()
        files.key.mkdir()
    endpoint, _ = opened("grpc", tls=secured(files))
    with pytest.raises(UnfitListenerError, match=r"receiver\.(pem|key)") as caught:
        _receiver(endpoint, new_queue())
    assert caught.value.code == "unfit_listener"
    assert caught.value.fix
    for left in endpoint.sockets:
        left.close()


def test_a_new_token_counts_as_soon_as_it_is_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("old\n")
    endpoint, port = opened("http", auth=BearerAuth(bearer_token_file=str(file)), token_reload_ns=SOON_NS)

    def status(token: str) -> int:
        line = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        headers = {"content-type": "application/json", "authorization": f"Bearer {token}"}
        line.request("POST", "/v1/traces", json.dumps({}), headers)
        found = line.getresponse().status
        line.close()
        return found

    with serving(endpoint, queue=new_queue()) as server:
        assert (status("old"), status("new")) == (200, 401)
        file.write_text("old\nnew\n")
        wait_until(lambda: status("new") == 200, "the new token to count")
        assert status("old") == 200
        file.write_text("\n")
        wait_until(lambda: server.statistics()["failed_reloads"] == 1, "the empty file to be seen")
        assert status("new") == 200
