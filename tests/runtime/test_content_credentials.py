"""Content credentials: what a signed file says, to whom it holds, and certificates that are no use."""

from __future__ import annotations

import datetime
import hashlib
import importlib.util
import io
import json
import os
from pathlib import Path

import av
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from PIL import Image

from broker.runtime.content_credentials import (
    DRAWN,
    DRAWN_INTO,
    Credentials,
    NoCredentials,
    Signer,
    checked_files,
    read_credentials,
)
from broker.runtime.credential_files import CredentialFiles, credential_files, new_pair
from broker.runtime.settings import CommonSettings, SettingsError
from tests.support.credentials import made_at

KINDS = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp", "MP4": "video/mp4"}
RECIPE = json.dumps({"zoetrope": 1, "request": {"prompt": "a cat ü", "seed": 7, "guidance_scale": 2.5}})


def media(kind: str) -> bytes:
    pixels = np.random.default_rng(1).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    out = io.BytesIO()
    if kind != "MP4":
        Image.fromarray(pixels).save(out, kind)
        return out.getvalue()
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return out.getvalue()


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> CredentialFiles:
    return made_at(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def signer(files) -> Signer:
    return Signer(files, "9.9")


def sign(signer: Signer, data: bytes, kind: str, **more: str) -> bytes:
    out = io.BytesIO()
    signer.sign(io.BytesIO(data), out, KINDS[kind], **more)
    return out.getvalue()


def read(data: bytes, kind: str, trusted: bytes = b"") -> Credentials:
    return read_credentials(io.BytesIO(data), KINDS[kind], trusted)


@pytest.mark.parametrize("kind", KINDS)
def test_a_signed_file_says_that_a_model_made_it_and_with_what(signer, files, kind):
    plain = media(kind)
    data = sign(signer, plain, kind, recipe_json=RECIPE)
    found = read(data, kind)
    assert (found.state, found.failures) == ("untrusted", ("signingCredential.untrusted",))
    assert (found.source_type, found.generator) == (DRAWN, "Zoetrope 9.9")
    assert found.recipe == json.loads(RECIPE)
    assert found.unsigned_sha256 == hashlib.sha256(plain).hexdigest()
    authority = Path(files.certificate).read_bytes()
    assert read(data, kind, authority).state == "valid"
    stranger, _ = new_pair()
    assert read(data, kind, stranger).state == "untrusted"


@pytest.mark.parametrize("kind", KINDS)
def test_one_changed_byte_of_the_media_is_seen(signer, files, kind):
    plain = media(kind)
    data = bytearray(sign(signer, plain, kind))
    # Of what was in the file before it was signed, far behind its head.
    at = data.index(plain[-40:-24]) + 3
    data[at] ^= 1
    found = read(bytes(data), kind, Path(files.certificate).read_bytes())
    assert found.state == "invalid"
    assert any("Hash.mismatch" in code for code in found.failures)


def test_a_manifest_of_another_file_does_not_hold(signer):
    """What is cut out of one file and put into another, of the same length."""
    one, other = bytearray(media("JPEG")), bytearray(media("JPEG"))
    other[-30] ^= 0x10
    first, second = sign(signer, bytes(one), "JPEG"), bytes(other)
    grafted = first.replace(bytes(one)[-200:], second[-200:])
    assert grafted != first
    assert read(grafted, "JPEG").state == "invalid"


def test_what_is_drawn_into_a_picture_is_told_apart_and_a_recipe_can_be_left_out(signer):
    found = read(sign(signer, media("PNG"), "PNG", source_type=DRAWN_INTO), "PNG")
    assert (found.source_type, found.recipe) == (DRAWN_INTO, None)


def test_a_file_without_credentials_is_told(signer):
    for kind in KINDS:
        with pytest.raises(NoCredentials, match="holds no content credentials"):
            read(media(kind), kind)


def test_a_file_cut_short_is_no_crash_and_not_whole(signer):
    for kind in KINDS:
        data = sign(signer, media(kind), kind)
        for part in (0.3, 0.6, 0.95):
            assert read(data[: int(len(data) * part)], kind).state == "invalid"


def test_a_pair_is_made_once_and_is_its_owners(tmp_path):
    settings = CommonSettings(home=str(tmp_path / "home"))
    files = checked_files(settings)
    assert files is not None
    key = Path(files.key)
    assert key.stat().st_mode & 0o777 == 0o600
    assert key.parent.stat().st_mode & 0o777 == 0o700
    before = key.read_bytes()
    assert checked_files(settings) == files
    assert key.read_bytes() == before
    assert [one.name for one in (tmp_path / "home").iterdir()] == ["credentials"]


def test_off_makes_nothing(tmp_path):
    assert credential_files(CommonSettings(home=str(tmp_path / "home"), content_credentials="off")) is None
    assert not (tmp_path / "home").exists()


def test_without_the_package_nothing_is_signed_unless_it_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    home = str(tmp_path / "home")
    assert credential_files(CommonSettings(home=home)) is None
    with pytest.raises(
        SettingsError, match=r"content_credentials: on needs c2pa-python.*pip install 'zoetrope\[c2pa\]'"
    ):
        credential_files(CommonSettings(home=home, content_credentials="on"))


def named(directory: Path, chain: bytes, key: bytes, mode: int = 0o600) -> CommonSettings:
    (directory / "chain.pem").write_bytes(chain)
    (directory / "key.pem").write_bytes(key)
    os.chmod(directory / "key.pem", mode)
    return CommonSettings(
        home=str(directory / "home"),
        signing_certificate=str(directory / "chain.pem"),
        signing_key=str(directory / "key.pem"),
    )


def test_certificates_that_are_no_use_are_named_at_start(tmp_path):
    chain, key = new_pair()
    _, another = new_pair()
    alone = chain[chain.index(b"-----BEGIN", 10) :]
    for one, lacking in (("certificate", "key"), ("key", "certificate")):
        with pytest.raises(SettingsError, match=f"signing_{lacking}: a certificate and its key are named together"):
            checked_files(CommonSettings(**{f"signing_{one}": "x.pem"}))
    for certificate, secret, mode, expected in [
        (chain, key, 0o640, r"signing_key: .*key.pem' can be read by others; give it mode 0600"),
        (b"hello", key, 0o600, "signing_certificate: .*chain.pem' is no PEM file"),
        (chain, chain, 0o600, "signing_key: it is no PEM key without a password"),
        (chain, another, 0o600, "signing_certificate: .*chain.pem"),
        (alone, key, 0o600, "signing_certificate: .*chain.pem.*self-signed"),
    ]:
        with pytest.raises(SettingsError, match=expected):
            checked_files(named(tmp_path, certificate, secret, mode))
    missing = CommonSettings(signing_certificate=str(tmp_path / "no.pem"), signing_key=str(tmp_path / "key.pem"))
    with pytest.raises(SettingsError, match=r"signing_certificate: .*no.pem' cannot be read: No such file"):
        checked_files(missing)


@pytest.mark.parametrize("kind", ["P-384", "Ed25519", "RSA"])
def test_an_operators_keys_of_every_kind_sign(tmp_path, kind):
    settings = named(tmp_path, *operators_pair(kind))
    files = checked_files(settings)
    assert files is not None
    data = sign(Signer(files, "1"), media("JPEG"), "JPEG")
    found = read(data, "JPEG", Path(files.certificate).read_bytes())
    assert (found.state, found.issuer, found.signer) == ("valid", "Studio", "Studio signer")


def operators_pair(kind: str) -> tuple[bytes, bytes]:
    """A chain and a key as an authority would give them, of this kind of key."""
    root = ec.generate_private_key(ec.SECP256R1())
    own = {
        "P-384": lambda: ec.generate_private_key(ec.SECP384R1()),
        "Ed25519": ed25519.Ed25519PrivateKey.generate,
        "RSA": lambda: rsa.generate_private_key(65537, 2048),
    }[kind]()
    names = x509.oid.NameOID
    now = datetime.datetime.now(datetime.UTC)

    def name(text: str) -> x509.Name:
        pairs = ((names.ORGANIZATION_NAME, "Studio"), (names.COMMON_NAME, text))
        return x509.Name([x509.NameAttribute(*pair) for pair in pairs])

    def certificate(text: str, public: object, *, authority: bool) -> bytes:
        uses = dict.fromkeys(("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False)
        uses |= dict.fromkeys(("crl_sign", "encipher_only", "decipher_only"), False)
        made = (
            x509.CertificateBuilder(name("Studio root"), name(text), public, x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=30))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=0 if authority else None), critical=True)
            .add_extension(
                x509.KeyUsage(digital_signature=not authority, key_cert_sign=authority, **uses), critical=True
            )
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root.public_key()), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        )
        if not authority:
            use = x509.oid.ExtendedKeyUsageOID.EMAIL_PROTECTION
            made = made.add_extension(x509.ExtendedKeyUsage([use]), critical=False)
        return made.sign(root, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    chain = certificate("Studio signer", own.public_key(), authority=False)
    chain += certificate("Studio root", root.public_key(), authority=True)
    # As `openssl ecparam -genkey` writes it, too.
    old = serialization.PrivateFormat.PKCS8 if kind == "Ed25519" else serialization.PrivateFormat.TraditionalOpenSSL
    return chain, own.private_bytes(serialization.Encoding.PEM, old, serialization.NoEncryption())
