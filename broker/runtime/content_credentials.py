"""C2PA content credentials: a signed manifest in a result's file which states that a model made it, and with what.

| assertion | content |
|---|---|
| `c2pa.actions.v2` | one action, `c2pa.created`, by IPTC's term for media of a trained model |
| `zoetrope.unsigned` | SHA-256 and size of the file before it was signed: two files drawn alike differ in their signatures alone |
| `zoetrope.recipe` | the recipe (`broker.wire.recipe`), where the file has one |
| `c2pa.hash.*` | what the signature holds over the file's bytes; made by the library |

Nothing here opens a connection: there is no time of an authority, no manifest elsewhere, no look for revoked certificates. The library is
loaded when it is first used.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
from importlib import import_module
from typing import Any, BinaryIO, Literal

from msgspec import Struct

from broker.runtime.credential_files import MODULE, CredentialFiles, credential_files, read_pem
from broker.runtime.settings import CommonSettings, SettingsError

_SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"

#: IPTC's words for where a file came from: a model drew all of it, or a part of what was there before.
DRAWN, DRAWN_INTO = "trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia"

#: Those of media that a model had a part in.
GENERATED = frozenset([DRAWN, DRAWN_INTO])

_UNSIGNED, _RECIPE = "zoetrope.unsigned", "zoetrope.recipe"
_ACTIONS, _CREATED = "c2pa.actions.v2", "c2pa.created"

_SETTINGS = {
    "version": 1,
    "verify": {"verify_after_sign": False, "remote_manifest_fetch": False, "ocsp_fetch": False},
    "builder": {"thumbnail": {"enabled": False}},
}

#: Key's kind (a curve by its name) -> COSE's name of its signature.
_ALGORITHMS = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512", "Ed25519": "ed25519", "RSA": "ps256"}

#: A grey PNG of one point.
_POINT = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b55"
    "0000000a49444154789c636000000002000148afa4710000000049454e44ae426082"
)

State = Literal["valid", "untrusted", "invalid"]


class SigningError(Exception):
    """A file could not be signed. One clause."""


class NoCredentials(ValueError):
    """There are no content credentials in a file, or it is of no kind that can have any. One clause, after the name of the file."""


class Credentials(Struct, frozen=True, kw_only=True):
    """Content credentials of a file, and whether they hold."""

    #: "valid": whole, by a trusted signer; "untrusted": whole, by another; "invalid": changed since, or signed wrongly.
    state: State
    #: Codes of the C2PA specification for what does not hold, as `assertion.dataHash.mismatch`.
    failures: tuple[str, ...] = ()
    #: Names in the certificate of the signer, and of the program that wrote the manifest.
    issuer: str = ""
    signer: str = ""
    generator: str = ""
    #: IPTC's term for where the file came from.
    source_type: str = ""
    #: Of the file as it was before it was signed; "": unknown.
    unsigned_sha256: str = ""
    recipe: dict[str, Any] | None = None


@functools.cache
def _library() -> Any:
    return import_module(MODULE)


class Signer:
    """Signs files with one certificate. Usable from several threads."""

    def __init__(self, files: CredentialFiles, version: str) -> None:
        """Raises `SettingsError` for files that cannot be used."""
        chain = read_pem(files.certificate, "signing_certificate")
        key = read_pem(files.key, "signing_key", secret=True)
        library = _library()
        self._generator = {"name": "Zoetrope", "version": version or "0"}
        try:
            algorithm, key = _usable(key)
            info = library.C2paSignerInfo(algorithm, chain, key, None)
            self._context = library.Context.from_dict(_SETTINGS, signer=library.Signer.from_info(info))
        except library.C2paError as error:
            raise SettingsError(
                f"signing_certificate: {files.certificate!r} and {files.key!r} sign nothing: {error}"
            ) from None

    def sign(
        self,
        source: BinaryIO,
        out: BinaryIO,
        media_type: str,
        *,
        recipe_json: str = "",
        source_type: str = DRAWN,
        title: str = "",
    ) -> None:
        """Write the signed version of a file to `out`, which is open for reading too. Raises `SigningError`, `OSError`."""
        source.seek(0)
        digest = hashlib.file_digest(source, "sha256").hexdigest()  # type: ignore[arg-type]
        manifest = self._manifest({"sha256": digest, "size": source.tell()}, recipe_json, source_type, title)
        source.seek(0)
        library = _library()
        try:
            library.Builder(manifest, context=self._context).sign(media_type, source, out)
        except library.C2paError as error:
            raise SigningError(f"its content credentials could not be signed: {error}") from None

    def _manifest(self, unsigned: dict[str, Any], recipe_json: str, source_type: str, title: str) -> dict[str, Any]:
        created = {
            "action": _CREATED,
            "digitalSourceType": _SOURCE_TYPES + source_type,
            "softwareAgent": self._generator,
        }
        assertions = [
            {"label": _ACTIONS, "data": {"actions": [created]}},
            {"label": _UNSIGNED, "data": unsigned},
        ]
        if recipe_json:
            assertions.append({"label": _RECIPE, "data": json.loads(recipe_json)})
        named = {"title": title} if title else {}
        return {"claim_generator_info": [self._generator], **named, "assertions": assertions}


def _usable(key: bytes) -> tuple[str, bytes]:
    """Return (signature algorithm of a PEM key, the key as the library reads it). Raises `SettingsError`."""
    encoding: Any = import_module("cryptography.hazmat.primitives.serialization")
    try:
        loaded = encoding.load_pem_private_key(key, password=None)
    except (ValueError, TypeError) as error:
        # Without the words of the error: they may quote the file.
        raise SettingsError(f"signing_key: it is no PEM key without a password ({type(error).__name__})") from None
    curve = getattr(loaded, "curve", None)
    name = curve.name if curve is not None else type(loaded).__name__.strip("_").removesuffix("PrivateKey")
    if name not in _ALGORITHMS:
        raise SettingsError(
            f"signing_key: it is of the kind {name}, which C2PA does not sign with; one of P-256, P-384, P-521, Ed25519, RSA is needed"
        )
    written: bytes = loaded.private_bytes(encoding.Encoding.PEM, encoding.PrivateFormat.PKCS8, encoding.NoEncryption())
    return _ALGORITHMS[name], written


def checked_files(settings: CommonSettings) -> CredentialFiles | None:
    """As `credential_files`; those that an operator named are tried, too. Raises `SettingsError`."""
    files = credential_files(settings)
    if files is not None and settings.signing_certificate:
        _check(files)
    return files


def _check(files: CredentialFiles) -> None:
    """Sign a picture of one point with them, and read it. Raises `SettingsError` for files that do not sign what readers accept."""
    out = io.BytesIO()
    try:
        Signer(files, "").sign(io.BytesIO(_POINT), out, "image/png")
        found = read_credentials(out, "image/png", b"")
    except (SigningError, NoCredentials) as error:
        raise SettingsError(f"signing_certificate: {files.certificate!r}: {error}") from None
    if found.state == "invalid":
        raise SettingsError(
            f"signing_certificate: {files.certificate!r} with {files.key!r} gives credentials that do not hold: "
            f"{', '.join(found.failures)}"
        )


def read_credentials(file: BinaryIO, media_type: str, trusted: bytes) -> Credentials:
    """The content credentials in a file. `trusted`: PEM certificates of the authorities that are trusted. Raises `NoCredentials`."""
    library = _library()
    settings: dict[str, Any] = {**_SETTINGS, "verify": {**_SETTINGS["verify"], "verify_trust": True}}  # type: ignore[dict-item]
    if trusted:
        settings["trust"] = {"trust_anchors": trusted.decode("ascii", "replace")}
    file.seek(0)
    try:
        with (
            library.Context.from_dict(settings) as context,
            library.Reader(media_type, file, context=context) as reader,
        ):
            return _read(json.loads(reader.json()))
    except library.C2paError.ManifestNotFound:
        raise NoCredentials("holds no content credentials: it was saved anew without them, or had none") from None
    except library.C2paError.NotSupported as error:
        raise NoCredentials(f"is of no kind that can have content credentials: {error}") from None
    except library.C2paError:
        # Its manifest cannot be read at all: it had one.
        return Credentials(state="invalid", failures=("general.error",))


def _read(store: dict[str, Any]) -> Credentials:
    manifest = store.get("manifests", {}).get(store.get("active_manifest"), {})
    results = store.get("validation_results", {}).get("activeManifest", {})
    failures = tuple(dict.fromkeys(one.get("code", "") for one in results.get("failure", ())))
    broken = [code for code in failures if code != "signingCredential.untrusted"]
    state: State = "invalid" if broken or not manifest else "untrusted" if failures else "valid"
    assertions = {one.get("label"): one.get("data") for one in manifest.get("assertions", ())}
    actions = (assertions.get(_ACTIONS) or assertions.get("c2pa.actions") or {}).get("actions", ())
    source = next((one.get("digitalSourceType", "") for one in actions if one.get("action") == _CREATED), "")
    unsigned, recipe = assertions.get(_UNSIGNED), assertions.get(_RECIPE)
    signature = manifest.get("signature_info") or {}
    generators = manifest.get("claim_generator_info") or [{}]
    return Credentials(
        state=state,
        failures=tuple(broken) or failures,
        issuer=str(signature.get("issuer") or ""),
        signer=str(signature.get("common_name") or ""),
        generator=" ".join(str(generators[0].get(name) or "") for name in ("name", "version")).strip(),
        source_type=str(source).removeprefix(_SOURCE_TYPES),
        unsigned_sha256=str(unsigned.get("sha256", "")) if isinstance(unsigned, dict) else "",
        recipe=recipe if isinstance(recipe, dict) else None,
    )
