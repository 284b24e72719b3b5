"""TLS 1.3 for every channel: what `--tls cert,key[,ca]` names, and the two sides of a connection made of it.

With a CA, both sides show a certificate and verify the other's. Host names are not compared: machines of a cluster
are known by changing addresses, behind tunnels and translators, and every holder of a certificate of the cluster's
own CA is a member. So the CA must be the cluster's own (`plesio cert` makes one; a bundle of public CAs is refused),
and who may be connected to is a matter of the certificate's purpose: one that is for clients only cannot pose as a run.

Without a CA, the client takes exactly the given certificate and no other; the server knows its clients by the token.

A key is read here and nowhere else; processes tell each other its path. The files are read once a process.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import stat
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from plesio.errors import PlesioError, TlsRefused, UserError, WireError

VARIABLE = "PLESIO_TLS"  # 'cert,key,ca', absolute paths, in a process's environment
MOST_CAS = 4  # the old and the new one while they change; a bundle of public ones has a hundred
EXPIRED, NOT_YET, WRONG_PURPOSE = 10, 9, 26  # OpenSSL's X509_V_ERR_*
FAILED: ContextVar[list[ssl.SSLError]] = ContextVar("FAILED")  # of the handshake that this task waits for
MEND = "`plesio cert DIR` makes a new set"


class Tls:
    """The files, as this process read them; see `load`. May be shared by threads.

    text: what to tell a child process; server: None when there is no key or it may not serve.
    """

    def __init__(self, text: str, client: ssl.SSLContext, server: ssl.SSLContext | None, pinned: bytes) -> None:
        self.text = text
        self.client = client
        self.server = server
        self.pinned = pinned

    def verify(self, connection: Any) -> None:
        """The client's last look at a connection (an ssl_object) that stands. Raises TlsRefused."""
        if self.pinned and connection.getpeercert(binary_form=True) != self.pinned:
            raise TlsRefused("it shows another certificate than the one in --tls")


def load(text: str, *, serves: bool = False) -> Tls:
    """'cert,key[,ca]', or 'cert' alone for a client that takes just this certificate. Raises UserError with the mend.

    serves: this process is connected to; its certificate must be good for that.
    """
    parts = [part.strip() for part in text.split(",")]
    if not 1 <= len(parts) <= 3 or not parts[0]:
        raise UserError(f"--tls {text!r} is not CERT,KEY or CERT,KEY,CA: two or three file names without commas")
    cert, key, ca = (Path(part).absolute() if part else None for part in (parts + ["", ""])[:3])
    assert cert is not None
    if key is None and (serves or ca is not None):
        raise UserError(f"--tls {text!r} names no key; give CERT,KEY or CERT,KEY,CA")
    for path in (cert, key, ca):
        _must_be_readable(path)
    if key is not None:
        _must_be_private(key)
    client = _context(ssl.PROTOCOL_TLS_CLIENT, cert, key)
    client.check_hostname = False  # see above
    _trust(client, ca or cert)
    server = None
    if key is not None:
        server = _context(ssl.PROTOCOL_TLS_SERVER, cert, key)
        if ca is not None:
            server.verify_mode = ssl.CERT_REQUIRED
            _trust(server, ca)
        _try_out(server, client if serves or ca is None else _credulous(cert, key), cert, ca)
    return Tls(
        ",".join("" if path is None else str(path) for path in (cert, key, ca)),
        client, server, b"" if ca is not None else _first_certificate(cert),
    )  # fmt: skip


def from_environment(*, serves: bool = False) -> Tls | None:
    """What the process that started this one said. Raises UserError."""
    text = os.environ.get(VARIABLE, "")
    return load(text, serves=serves) if text else None


def explain(where: str, error: ssl.SSLError) -> PlesioError:
    """Why a connection to `where` failed: TlsRefused when trying again is no use, else WireError."""
    reason = str(error.reason or "")
    if isinstance(error, ssl.SSLCertVerificationError):
        why = f"shows a certificate that is not trusted here ({error.verify_message})"
        return TlsRefused(f"{where} {why}; both sides need --tls with certificates of one CA, or with the same one")
    if reason == "WRONG_VERSION_NUMBER":
        return TlsRefused(f"{where} does not speak TLS; start the run with --tls too, or leave --tls out here")
    if "ALERT" in reason and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason):
        what = reason.partition("ALERT_")[2].replace("_", " ").lower()
        return TlsRefused(f"{where} does not accept our certificate ({what}); give --tls one that its CA has signed")
    return WireError(f"no TLS connection to {where}: {error}")


def describe(error: OSError) -> str:
    """For the server's journal: why a client's handshake failed."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its TLS certificate is not trusted here ({error.verify_message})"
    if isinstance(error, ssl.SSLError):
        return f"the TLS handshake failed ({str(error.reason or error).replace('_', ' ').lower()})"
    return "left the TLS handshake unfinished; perhaps it does not trust our certificate"


def says_hello(first: bytes) -> bool:
    """Are these the first bytes of a TLS client? (No frame of ours that is within the limits begins like that.)"""
    return first[:3] in (b"\x16\x03\x01", b"\x16\x03\x03")


class _Telling(ssl.SSLObject):
    """A server's side that tells a refused client why.

    asyncio drops the alert of a failed handshake. It sends what is written when a handshake wants to read more, so
    this one fails at the next bytes, or by the deadline.
    """

    failed: ssl.SSLError | None = None

    def do_handshake(self) -> None:
        """See SSLObject."""
        if self.failed is not None:
            raise self.failed
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            if "ALERT" in str(error.reason or ""):
                raise  # it is the client that refuses us
            self.failed = error
            FAILED.get([]).append(error)  # the peer may close before we fail
            raise ssl.SSLWantReadError("the alert is sent first") from error


def _context(protocol: int, cert: Path, key: Path | None) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # what we are given to trust need not be a root
    if protocol == ssl.PROTOCOL_TLS_SERVER:
        context.sslobject_class = _Telling
        context.num_tickets = 0  # nobody resumes a session
    if key is not None:
        try:
            context.load_cert_chain(cert, key, password=_no_password(key))
        except ssl.SSLError as error:
            if "MISMATCH" in str(error.reason or ""):
                raise UserError(f"the key {key} does not belong to the certificate {cert}; {MEND}") from error
            raise UserError(f"{cert} and {key} are not a certificate and its key in PEM format: {error}") from error
    return context


def _no_password(key: Path) -> Any:
    def ask() -> str:
        raise UserError(f"the key {key} is locked with a password; plesio needs one without (chmod 600)")

    return ask


def _trust(context: ssl.SSLContext, path: Path) -> None:
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise UserError(f"{path} holds no certificate in PEM format: {error}") from error
    if len(context.get_ca_certs()) > MOST_CAS:
        raise UserError(
            f"{path} is a bundle of many CAs; plesio trusts every certificate of the CA that it is given, "
            f"so that must be the cluster's own; {MEND}"
        )


def _first_certificate(path: Path) -> bytes:
    """As it is shown in a handshake (DER)."""
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    body = path.read_text(errors="replace").partition(begin)[2].partition(end)[0]
    return ssl.PEM_cert_to_DER_cert(f"{begin}{body}{end}\n")


def _must_be_readable(path: Path | None) -> None:
    if path is None:
        return
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise UserError(f"cannot read {path} of --tls: {error.strerror}; check the path and its owner") from error


def _must_be_private(key: Path) -> None:
    if stat.S_IMODE(key.stat().st_mode) & 0o077:
        raise UserError(f"others on this machine may read the key {key}; run `chmod 600 {key}`")


def _credulous(cert: Path, key: Path) -> ssl.SSLContext:
    """A client that shows our certificate and takes any; to try ours out."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT, cert, key)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _try_out(server: ssl.SSLContext, client: ssl.SSLContext, cert: Path, ca: Path | None) -> None:
    """Shakes hands with ourselves in memory, so that the verdict is that of a real connection. Raises UserError."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [client.wrap_bio(down, up), server.wrap_bio(up, down, server_side=True)]
    try:
        for _ in range(4):
            for side in sides:
                with contextlib.suppress(ssl.SSLWantReadError):
                    side.do_handshake()
    except ssl.SSLCertVerificationError as error:
        if error.verify_code in (EXPIRED, NOT_YET):
            why = f"{error.verify_message} (or its CA's has)" if ca is not None else error.verify_message
            raise UserError(f"the certificate {cert} of --tls: {why}; {MEND}") from error
        if error.verify_code == WRONG_PURPOSE:
            raise UserError(f"the certificate {cert} is not one to run with: it is for clients only; {MEND}") from error
        raise UserError(
            f"the certificate {cert} is not signed by the CA in {ca} ({error.verify_message}); {MEND}"
        ) from error
    except ssl.SSLError as error:
        raise UserError(f"the certificate {cert} cannot be used for TLS 1.3: {error}; {MEND}") from error
