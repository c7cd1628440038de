"""The API server as a pod meets it: over TLS, with the token of its service account."""

import datetime
import ipaddress
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from argo.api_server import ApiServer
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

TOKEN = "of-the-account-7c2e"
# No Gateway and no Prometheus: nothing is compared, since it is the first version.
ALONE = {"probe": False, "metrics": {"age": "vector(0)"}}


@contextmanager
def served(account: Path, **settings: bool) -> Iterator[tuple[ApiServer, dict[str, str]]]:
    """The stand-in, and the variables that a pod has. Args: account: gets `token` and `ca.crt`."""
    account.mkdir(parents=True, exist_ok=True)
    (account / "token").write_text(f"{TOKEN}\n")
    key = account.parent / "api-server.key"
    certify(account / "ca.crt", key)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(account / "ca.crt", key)
    with ApiServer(**settings) as server:
        server.token = TOKEN
        server.socket = tls.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = str(server.server_port)
        yield server, {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": port}
        server.shutdown()


def certify(certificate: Path, key: Path, host: str = "127.0.0.1") -> None:
    """Write a certificate for a host, an address or a name, that is its own authority."""
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "the stand-in")])
    now = datetime.datetime.now(datetime.UTC)
    known_as: x509.GeneralName = x509.DNSName(host)
    if host[0].isdigit():
        known_as = x509.IPAddress(ipaddress.ip_address(host))
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([known_as]), critical=False)
        .sign(private, hashes.SHA256())
    )
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
