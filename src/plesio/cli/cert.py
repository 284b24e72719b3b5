"""`plesio cert`: a throw-away CA and certificates for the machines of a small cluster.

A run's machine gets a certificate to be connected to and to connect with, a node's is for connecting only: so a node
cannot pose as the run. The CA's key signs more later (with other tools); plesio never reads it, and never overwrites.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import re
import shlex
import socket
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from plesio.errors import UserError

BACKDATED = datetime.timedelta(hours=1)  # clocks of machines differ
SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.:_-]{0,62}")
ANY_NODE = "node"

Key = ec.EllipticCurvePrivateKey


def make(folder: Path, hosts: list[str], nodes: list[str], days: int) -> None:
    """Writes them, and prints what to copy and to type. Raises UserError when a name is bad or a file is there."""
    hosts, nodes = hosts or [socket.gethostname()], nodes or [ANY_NODE]
    _check(hosts, nodes)
    paths = [folder / name for stem in (*hosts, *nodes) for name in _names(stem)]
    for path in (folder / "ca.pem", folder / "ca-key.pem", *paths):
        if path.exists():
            raise UserError(f"{path} exists already, and nothing is overwritten; choose another folder")
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca = _ca(ca_key, days)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(folder, "ca", ca, ca_key)
        for stem in (*hosts, *nodes):
            key = ec.generate_private_key(ec.SECP256R1())
            _write(folder, stem, _signed(ca, ca_key, key, stem, serves=stem in hosts), key)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}; choose another folder") from error
    print("\n".join(_advice(folder, hosts, nodes, days)))


def _check(hosts: list[str], nodes: list[str]) -> None:
    names = [*hosts, *nodes]
    for name in names:
        if not SAFE_NAME.fullmatch(name) or name == "ca" or name.endswith("-key"):
            raise UserError(f"name {name!r} must be letters, digits, dots and dashes, and neither 'ca' nor '...-key'")
        if names.count(name) > 1:
            raise UserError(f"name {name!r} is given twice; a --host can also join, so it need not be a --node")


def _names(stem: str) -> tuple[str, str]:
    return f"{stem}.pem", f"{stem}-key.pem"


def _builder(subject: str, issuer: x509.Name | None, key: Key, until: datetime.datetime) -> x509.CertificateBuilder:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    public = key.public_key()
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer or name)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_now() - BACKDATED)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates, key_cert_sign=signs_certificates, crl_sign=signs_certificates,
        content_commitment=False, key_encipherment=False, data_encipherment=False, key_agreement=False,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _ca(key: Key, days: int) -> x509.Certificate:
    made = _builder("plesio cluster CA", None, key, _now() + datetime.timedelta(days=days))
    made = made.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    return made.add_extension(_usage(signs_certificates=True), critical=True).sign(key, hashes.SHA256())


def _signed(ca: x509.Certificate, ca_key: Key, key: Key, name: str, *, serves: bool) -> x509.Certificate:
    purposes = [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if serves else [])]
    made = _builder(name, ca.subject, key, ca.not_valid_after_utc)
    made = made.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    made = made.add_extension(_usage(signs_certificates=False), critical=True)
    made = made.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    made = made.add_extension(issuer, critical=False)
    if serves:
        made = made.add_extension(x509.SubjectAlternativeName([_address(name)]), critical=False)
    return made.sign(ca_key, hashes.SHA256())


def _address(name: str) -> x509.GeneralName:
    """plesio compares no host names (see wire/tls.py); other tools do."""
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _write(folder: Path, stem: str, certificate: x509.Certificate, key: Key) -> None:
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    for name, content, mode in zip(_names(stem), (certificate.public_bytes(pem), secret), (0o644, 0o600), strict=True):
        descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)


def _advice(folder: Path, hosts: list[str], nodes: list[str], days: int) -> list[str]:
    lines = [f"{folder} holds a CA and {len(hosts) + len(nodes)} certificates, valid for {days} days."]
    for host in hosts:
        lines += [
            f"On {host}, to run (if that is this machine, in {folder}, and nothing is copied):",
            _copy(folder, host, host),
        ]
        lines += [f"  plesio run --listen 0.0.0.0:7700 --token-file token --tls {_option(host)} train.py"]
    address = f"[{hosts[0]}]" if ":" in hosts[0] else hosts[0]
    for node in nodes:
        machine = "MACHINE" if nodes == [ANY_NODE] else node
        lines += [f"On {machine}, to join:", _copy(folder, node, machine), f"  scp {address}:token {machine}:"]
        lines += [f"  plesio join {address}:7700 --token-file token --tls {_option(node)} train.py"]
    lines += [
        f"A key is for its own machine and user only. {folder / 'ca-key.pem'} goes nowhere: keep it, or delete it."
    ]
    return lines


def _copy(folder: Path, stem: str, machine: str) -> str:
    return "  " + shlex.join(["scp", *(str(folder / name) for name in (*_names(stem), "ca.pem")), f"{machine}:"])


def _option(stem: str) -> str:
    return ",".join((*_names(stem), "ca.pem"))
