"""Valkey by rediss://: a certificate of our own authority passes, and no other.

The packaged Valkey speaks no TLS. So a terminator in this process stands before it, as a proxy
would.
"""

import contextlib
import datetime
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from valkeys import embedded_valkey

from tempo_storage.errors import StreamUnavailableError
from tempo_storage.valkey.doorbell import Listener, Refused, ring
from tempo_storage.valkey.server import EmbeddedValkey
from tempo_storage.valkey.streams import QuestionStream, redis_client

pytestmark = pytest.mark.service
Url = Callable[[str], str]


def write_certificate(directory: Path, name: str, *, address: str) -> Path:
    """Write a certificate that signs itself, with its key behind it; return the file."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    start = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=3))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    file = directory / f"{name}.pem"
    file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + private)
    return file


def copy(source: socket.socket, target: socket.socket) -> None:
    """Copy bytes until one side ends; then end the other, and close the source."""
    with source:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        for side in (source, target):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)


def terminate_tls(listener: socket.socket, certificate: Path, valkey: EmbeddedValkey) -> None:
    """Serve until the listener is closed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    while True:
        try:
            plain, _ = listener.accept()
        except OSError:
            return
        try:
            client = context.wrap_socket(plain, server_side=True)
        except OSError:  # the client refused our certificate
            plain.close()
            continue
        behind = socket.socket(socket.AF_UNIX)
        behind.connect(str(valkey.socket))
        for pair in ((client, behind), (behind, client)):
            threading.Thread(target=copy, args=pair, daemon=True).start()


@pytest.fixture
def url(tmp_path: Path) -> Iterator[Url]:
    """Return a function: the URL of a Valkey behind a certificate for this address."""
    listeners: list[socket.socket] = []
    with embedded_valkey(tmp_path) as valkey:

        def serve(address: str) -> str:
            certificate = write_certificate(tmp_path, "ours", address=address)
            listener = socket.create_server(("127.0.0.1", 0))
            listeners.append(listener)
            threading.Thread(
                target=terminate_tls, args=(listener, certificate, valkey), daemon=True
            ).start()
            port = listener.getsockname()[1]
            return f"rediss://127.0.0.1:{port}/0"

        yield serve
        for listener in listeners:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()


def test_questions_and_rings_pass_through_tls(url: Url, tmp_path: Path) -> None:
    address = f"{url('127.0.0.1')}?ssl_ca_certs={tmp_path / 'ours.pem'}"
    client = redis_client(address, timeout_seconds=20.0)
    stream = QuestionStream(client)
    stream.append([{"id": "a"}])
    assert [question for _, question in stream.read()] == [{"id": "a"}]
    listener = Listener(redis_client(address, timeout_seconds=20.0))
    assert ring(client, "ftjob-1")
    assert listener.wait(10) == Refused()
    listener.close()
    client.close()


@pytest.mark.parametrize("trusted", ["none", "another"])
@pytest.mark.attack(
    "Valkey",
    "a certificate of another authority between us and Valkey",
    promise="refused; no question is sent",
)
def test_a_certificate_of_another_authority_is_refused(
    trusted: str, url: Url, tmp_path: Path, seen: Callable[[object], None]
) -> None:
    address = url("127.0.0.1")
    if trusted == "another":
        file = write_certificate(tmp_path, "another", address="127.0.0.1")
        address += f"?ssl_ca_certs={file}"
    with redis_client(address, timeout_seconds=20.0) as client:
        with pytest.raises(StreamUnavailableError, match="certificate verify failed") as caught:
            QuestionStream(client).append([{"id": "a"}])
        assert not ring(client, "ftjob-1")
    seen(f"trusted {trusted}: {str(caught.value)[-90:]}")


@pytest.mark.attack(
    "Valkey",
    "a certificate for another host",
    promise="refused",
)
def test_a_certificate_for_another_host_is_refused(
    url: Url, tmp_path: Path, seen: Callable[[object], None]
) -> None:
    address = f"{url('127.0.0.9')}?ssl_ca_certs={tmp_path / 'ours.pem'}"
    with (
        redis_client(address, timeout_seconds=20.0) as client,
        pytest.raises(redis.ConnectionError, match="IP address mismatch") as caught,
    ):
        client.ping()
    seen(str(caught.value)[-90:])
