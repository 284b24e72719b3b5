"""`--tls`: what the files must be, and what is said when they are not; and `plesio cert`, which makes them."""

from __future__ import annotations

import datetime
import shutil
import ssl
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from plesio.cli import cert
from plesio.errors import TlsRefused, UserError, WireError
from plesio.wire import tls


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "certs"
    cert.make(folder, ["trainer", "10.0.0.5"], ["gpu1"], 30)
    return folder


def files(folder: Path, stem: str, ca: str = "ca") -> str:
    return ",".join(str(folder / name) for name in (f"{stem}.pem", f"{stem}-key.pem", *([f"{ca}.pem"] if ca else [])))


def self_signed(folder: Path, ends_in_days: float) -> str:
    """A certificate that is its own CA: 'cert,key'."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "alone")])
    begins, ends = now - datetime.timedelta(days=10), now + datetime.timedelta(days=ends_in_days)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(begins).not_valid_after(ends)
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "alone.pem").write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(pem))
    (folder / "alone-key.pem").write_bytes(secret)
    (folder / "alone-key.pem").chmod(0o600)
    return files(folder, "alone", "")


def test_a_set_is_made_with_private_keys_and_never_overwritten(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    names = {path.name: stat.S_IMODE(path.stat().st_mode) for path in made.iterdir()}
    assert {"ca.pem", "trainer.pem", "10.0.0.5.pem", "gpu1.pem"} <= set(names) and len(names) == 8
    assert all(mode & 0o077 == 0 for name, mode in names.items() if name.endswith("-key.pem"))
    before = (made / "ca.pem").read_bytes()
    with pytest.raises(UserError, match="nothing is overwritten"):
        cert.make(made, ["other"], [], 30)
    assert (made / "ca.pem").read_bytes() == before and not (made / "other.pem").exists()


def test_what_to_copy_and_to_type_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cert.make(tmp_path / "c", ["trainer"], ["gpu1"], 7)
    said = capsys.readouterr().out
    assert "valid for 7 days" in said and f"scp {tmp_path}/c/gpu1.pem" in said
    assert "plesio join trainer:7700 --token-file token --tls gpu1.pem,gpu1-key.pem,ca.pem" in said
    assert "--tls trainer.pem,trainer-key.pem,ca.pem train.py" in said
    assert "PRIVATE KEY" not in said
    ends = x509.load_pem_x509_certificate((tmp_path / "c" / "gpu1.pem").read_bytes()).not_valid_after_utc
    assert datetime.timedelta(days=6) < ends - datetime.datetime.now(datetime.UTC) <= datetime.timedelta(days=7)


@pytest.mark.parametrize("name", ["ca", "../x", "", "a,b", "my-key", "-x"])
def test_names_that_are_no_file_names_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must be letters"):
        cert.make(tmp_path / "c", [name], [], 7)
    with pytest.raises(UserError, match="twice"):
        cert.make(tmp_path / "c", ["same"], ["same"], 7)
    assert not (tmp_path / "c").exists()


def test_a_run_needs_a_certificate_to_be_connected_to_and_a_node_does_not(made: Path) -> None:
    for stem in ("trainer", "10.0.0.5"):
        side = tls.load(files(made, stem), serves=True)
        assert side.server is not None and side.server.verify_mode is ssl.CERT_REQUIRED
        assert side.client.verify_mode is ssl.CERT_REQUIRED
        assert side.client.minimum_version is side.server.minimum_version is ssl.TLSVersion.TLSv1_3
    tls.load(files(made, "gpu1"))
    with pytest.raises(UserError, match="for clients only"):
        tls.load(files(made, "gpu1"), serves=True)


def test_a_child_process_is_told_absolute_paths_and_no_key(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.chdir(made)
    side = tls.load("gpu1.pem, gpu1-key.pem,ca.pem")
    assert side.text == files(made, "gpu1")
    monkeypatch.delenv(tls.VARIABLE, raising=False)
    assert tls.from_environment() is None
    monkeypatch.setenv(tls.VARIABLE, side.text)
    again = tls.from_environment()
    assert again is not None and again.text == side.text


@pytest.mark.parametrize("text", ["", ",", "a,b,c,d", " ,key"])
def test_what_is_not_two_or_three_names_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="CERT,KEY"):
        tls.load(text)


def test_missing_swapped_and_mismatching_files_are_named(made: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.pem.*No such file"):
        tls.load(f"{made}/none.pem,{made}/gpu1-key.pem")
    with pytest.raises(UserError, match="does not belong"):
        tls.load(f"{made}/gpu1.pem,{made}/trainer-key.pem,{made}/ca.pem")
    with pytest.raises(UserError, match="PEM"):
        tls.load(f"{made}/gpu1-key.pem,{made}/gpu1-key.pem,{made}/ca.pem")
    with pytest.raises(UserError, match="no certificate in PEM"):
        tls.load(f"{made}/gpu1.pem,{made}/gpu1-key.pem,{made}/gpu1-key.pem")
    with pytest.raises(UserError, match="names no key"):
        tls.load(f"{made}/trainer.pem", serves=True)
    with pytest.raises(UserError, match="names no key"):
        tls.load(f"{made}/trainer.pem,,{made}/ca.pem")


def test_a_key_that_others_may_read_is_refused_with_the_mend(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "c")
    (tmp_path / "c" / "gpu1-key.pem").chmod(0o640)
    with pytest.raises(UserError, match=r"chmod 600 .*gpu1-key\.pem"):
        tls.load(files(tmp_path / "c", "gpu1"))


def test_a_locked_key_does_not_ask_for_its_password(made: Path, tmp_path: Path) -> None:
    key = serialization.load_pem_private_key((made / "gpu1-key.pem").read_bytes(), None)
    locked = tmp_path / "locked.pem"
    pem, how = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    locked.write_bytes(key.private_bytes(pem, how, serialization.BestAvailableEncryption(b"secret")))
    locked.chmod(0o600)
    with pytest.raises(UserError, match="password"):
        tls.load(f"{made}/gpu1.pem,{locked},{made}/ca.pem")


def test_a_certificate_of_another_ca_or_an_expired_one_is_refused_before_anything_starts(
    made: Path, tmp_path: Path
) -> None:  # fmt: skip
    cert.make(tmp_path / "other", ["trainer"], [], 30)
    with pytest.raises(UserError, match="not signed by the CA"):
        tls.load(f"{made}/gpu1.pem,{made}/gpu1-key.pem,{tmp_path}/other/ca.pem")
    with pytest.raises(UserError, match="expired"):
        tls.load(self_signed(tmp_path, -1), serves=True)


def test_a_bundle_of_public_cas_is_refused(made: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle.pem"
    content = b""
    for number in range(tls.MOST_CAS + 1):
        cert.make(tmp_path / str(number), ["x"], [], 1)
        content += (tmp_path / str(number) / "ca.pem").read_bytes()
    bundle.write_bytes(content)
    with pytest.raises(UserError, match="bundle"):
        tls.load(f"{made}/gpu1.pem,{made}/gpu1-key.pem,{bundle}")


def test_without_a_ca_exactly_the_given_certificate_is_taken(made: Path, tmp_path: Path) -> None:
    side = tls.load(self_signed(tmp_path, 1), serves=True)
    assert side.server is not None and side.server.verify_mode is ssl.CERT_NONE
    client = tls.load(str(tmp_path / "alone.pem"))
    assert client.server is None and client.pinned == side.pinned

    class Connection:
        def __init__(self, shown: bytes) -> None:
            self.shown = shown

        def getpeercert(self, binary_form: bool) -> bytes:
            return self.shown

    client.verify(Connection(side.pinned))
    with pytest.raises(TlsRefused, match="another certificate"):
        client.verify(Connection(side.pinned + b"x"))


@pytest.mark.parametrize(
    ("reason", "final"),
    [
        ("WRONG_VERSION_NUMBER", True),
        ("TLSV1_ALERT_UNKNOWN_CA", True),
        ("TLSV13_ALERT_CERTIFICATE_REQUIRED", True),
        ("SSLV3_ALERT_CERTIFICATE_EXPIRED", True),
        ("TLSV1_ALERT_INTERNAL_ERROR", False),
        ("UNEXPECTED_EOF_WHILE_READING", False),
    ],
)
def test_what_trying_again_cannot_mend_is_final(reason: str, final: bool) -> None:
    error = ssl.SSLError(1, reason)
    error.reason = reason
    told = tls.explain("host:1", error)
    assert isinstance(told, TlsRefused if final else WireError) and "host:1" in str(told)


def test_neither_importing_plesio_nor_its_help_loads_cryptography() -> None:
    code = "import plesio, plesio.cli.main, plesio.cli.launch, sys; assert 'cryptography' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
