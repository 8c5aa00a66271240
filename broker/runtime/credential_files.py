"""The certificate and the key that results are signed with: those that the operator names, or a pair made at the first start.

A pair that is made here lies in `<home>/credentials`: a chain of two certificates (C2PA allows no self-signed signer) and the key of the
first. The key of the other is thrown away, so that no second signer can be made of it. No trust list has it: readers report its files as
whole, by an unknown signer.
"""

from __future__ import annotations

import datetime
import importlib.util
import os
import secrets
import shutil
import stat
from importlib import import_module
from pathlib import Path
from typing import Any

from msgspec import Struct

from broker.runtime.settings import CommonSettings, SettingsError

#: The module that signs, and what brings it.
MODULE, EXTRA = "c2pa", "pip install 'zoetrope[c2pa]'"

_CERTIFICATE, _KEY = "certificate.pem", "private.key"

#: Without the time of an authority in them, signatures hold as long as the certificate does.
_VALID_DAYS = 3650

_MAX_BYTES = 1 << 20


class CredentialFiles(Struct, frozen=True):
    """Paths of a chain of certificates, the signer's first, and of the signer's key; both PEM."""

    certificate: str
    key: str


def is_installed() -> bool:
    """Whether the library is there. It is not loaded."""
    return importlib.util.find_spec(MODULE) is not None


def is_on(settings: CommonSettings) -> bool:
    """Whether results are to be signed. Raises `SettingsError` where they are and cannot be."""
    installed = is_installed()
    if settings.content_credentials == "on" and not installed:
        raise SettingsError(f"content_credentials: on needs c2pa-python, which is not installed: {EXTRA}")
    return installed and settings.content_credentials != "off"


def credential_files(settings: CommonSettings) -> CredentialFiles | None:
    """The files to sign with, made where none are named and none are there; None where nothing is signed. Raises `SettingsError`."""
    named = (settings.signing_certificate, settings.signing_key)
    if bool(named[0]) != bool(named[1]):
        lacking = "signing_key" if named[0] else "signing_certificate"
        raise SettingsError(f"{lacking}: a certificate and its key are named together, and this one is not")
    if not is_on(settings):
        return None
    if named[0]:
        certificate, key = (str(Path(path).expanduser().absolute()) for path in named)
        return CredentialFiles(certificate, key)
    directory = settings.home_path / "credentials"
    files = CredentialFiles(str(directory / _CERTIFICATE), str(directory / _KEY))
    if not directory.exists():
        _make_pair(directory)
    return files


def read_pem(path: str, option: str, *, secret: bool = False) -> bytes:
    """The text of a PEM file; one with a secret must have mode 0600 and this user. Raises `SettingsError` naming the option."""
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            # A mounted secret is root's, and is read through this process's group.
            wrong = 0o037 if status.st_uid == 0 and not status.st_mode & 0o222 else 0o077
            if secret and status.st_mode & wrong:
                raise SettingsError(f"{option}: {path!r} can be read by others; give it mode 0600")
            if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_BYTES:
                raise SettingsError(f"{option}: {path!r} is no PEM file")
            text = file.read()
    except OSError as error:
        raise SettingsError(f"{option}: {path!r} cannot be read: {error.strerror}") from None
    if b"-----BEGIN " not in text:
        raise SettingsError(f"{option}: {path!r} is no PEM file")
    return text


def _make_pair(directory: Path) -> None:
    """Several processes may do this at once: the first rename wins, and all of them read its pair. Raises `SettingsError`."""
    chain, key = new_pair()
    temporary = directory.with_name(f".{directory.name}-{secrets.token_hex(6)}")
    try:
        temporary.mkdir(mode=0o700, parents=True)
        for name, text, mode in ((_CERTIFICATE, chain, 0o644), (_KEY, key, 0o600)):
            descriptor = os.open(temporary / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
            with open(descriptor, "wb") as file:
                file.write(text)
                file.flush()
                os.fsync(descriptor)
        try:
            temporary.rename(directory)
        except OSError:
            # A directory that is there, and not empty, is not replaced.
            if not (directory / _KEY).exists():
                raise
    except OSError as error:
        raise SettingsError(f"content_credentials: no key can be made in {directory}: {error.strerror}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def new_pair() -> tuple[bytes, bytes]:
    """A chain of certificates and the key of the first, PEM: ECDSA on P-256, for ten years."""
    x509: Any = import_module("cryptography.x509")
    hashes: Any = import_module("cryptography.hazmat.primitives.hashes")
    encoding: Any = import_module("cryptography.hazmat.primitives.serialization")
    curve: Any = import_module("cryptography.hazmat.primitives.asymmetric.ec")
    root, own = (curve.generate_private_key(curve.SECP256R1()) for _ in range(2))
    now = datetime.datetime.now(datetime.UTC)

    def certificate(name: str, key: Any, extensions: list[tuple[Any, bool]]) -> bytes:
        def called(text: str) -> Any:
            names = x509.oid.NameOID
            return x509.Name(
                [
                    x509.NameAttribute(names.ORGANIZATION_NAME, "Zoetrope (self-made)"),
                    x509.NameAttribute(names.COMMON_NAME, text),
                ]
            )

        made = x509.CertificateBuilder(
            issuer_name=called("Zoetrope root"),
            subject_name=called(name),
            public_key=key.public_key(),
            serial_number=x509.random_serial_number(),
            # Of machines whose clocks disagree a little.
            not_valid_before=now - datetime.timedelta(hours=1),
            not_valid_after=now + datetime.timedelta(days=_VALID_DAYS),
        )
        for extension, critical in extensions:
            made = made.add_extension(extension, critical)
        signed: bytes = made.sign(root, hashes.SHA256()).public_bytes(encoding.Encoding.PEM)
        return signed

    uses = dict.fromkeys(
        ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False
    ) | dict.fromkeys(("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"), False)
    by_root = x509.AuthorityKeyIdentifier.from_issuer_public_key(root.public_key())
    first = certificate(
        "Zoetrope",
        own,
        [
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (x509.KeyUsage(**(uses | {"digital_signature": True})), True),
            (x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.EMAIL_PROTECTION]), False),
            (by_root, False),
            (x509.SubjectKeyIdentifier.from_public_key(own.public_key()), False),
        ],
    )
    second = certificate(
        "Zoetrope root",
        root,
        [
            (x509.BasicConstraints(ca=True, path_length=0), True),
            (x509.KeyUsage(**(uses | {"key_cert_sign": True})), True),
            (by_root, False),
            (x509.SubjectKeyIdentifier.from_public_key(root.public_key()), False),
        ],
    )
    key = own.private_bytes(encoding.Encoding.PEM, encoding.PrivateFormat.PKCS8, encoding.NoEncryption())
    return first + second, key
