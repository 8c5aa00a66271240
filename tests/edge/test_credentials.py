"""`POST /v1/credentials`, and pictures that the edge converts: they are results, and signed as such."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from broker.runtime.credential_files import new_pair
from broker.runtime.settings import SettingsError
from tests.edge.conftest import World
from tests.edge.levers import draws
from tests.edge.small_media import clip, picture
from tests.testing.fake_broker import PICTURE

RECIPE = {"zoetrope": 1, "request": {"prompt": "a cat ü", "seed": 7}}
FORMATS = ("jpeg", "webp")


@pytest.fixture
def signing(open_edge: Callable[..., World]) -> World:
    return open_edge(content_credentials="on")


def reported() -> bytes:
    info, out = PngInfo(), io.BytesIO()
    info.add_text("zoetrope", json.dumps(RECIPE, separators=(",", ":")))
    Image.new("RGB", (64, 48), (200, 30, 30)).save(out, "PNG", pnginfo=info)
    return out.getvalue()


def ask(world: World, data: bytes) -> Any:
    return world.http.post("/v1/credentials", files={"file": ("result", data)})


def converted(world: World, to: str) -> bytes:
    draws(world, image_png=reported())
    form = {"prompt": "a cat", "model": PICTURE.name, "response_format": "file", "output_format": to}
    answer = world.http.post("/v1/images/generations", json=form)
    assert answer.status_code == 200
    return answer.content


@pytest.mark.parametrize("to", FORMATS)
def test_a_converted_picture_is_signed_and_has_its_recipe_twice(signing: World, to: str) -> None:
    data = converted(signing, to)
    answer = ask(signing, data)
    assert answer.status_code == 200
    found = answer.json()
    assert (found["object"], found["state"], found["generated"]) == ("credentials", "untrusted", True)
    assert (found["source_type"], found["signer"]) == ("trainedAlgorithmicMedia", "Zoetrope")
    assert found["recipe"] == RECIPE
    again = signing.http.post("/v1/recipe", files={"file": ("result", data)}).json()
    assert again["request"]["prompt"] == "a cat ü"
    changed = bytearray(data)
    # Of the picture: in a WebP the credentials come last.
    changed[data.index(b"VP8 ") + 60 if to == "webp" else -20] ^= 1
    broken = ask(signing, bytes(changed)).json()
    assert broken["state"] == "invalid"
    assert broken["failures"] == ["assertion.dataHash.mismatch"]


def test_a_picture_in_another_format_is_signed_once_and_its_digest_is_the_signed_files(signing: World) -> None:
    draws(signing, image_png=reported())
    form = {"prompt": "a cat", "model": PICTURE.name, "response_format": "url", "output_format": "webp"}
    url = signing.http.post("/v1/images/generations", json=form).json()["data"][0]["url"]
    first, second = signing.http.get(url), signing.http.get(url)
    assert first.content == second.content
    assert first.headers["etag"] == f'"{hashlib.sha256(first.content).hexdigest()}"'
    assert ask(signing, first.content).json()["state"] == "untrusted"
    part = signing.http.get(url, headers={"range": "bytes=10-19", "if-range": first.headers["etag"]})
    assert (part.status_code, part.content) == (206, first.content[10:20])


def test_authorities_that_the_operator_names_are_trusted(
    open_edge: Callable[..., World], signing: World, start: Path
) -> None:
    trusting = open_edge(
        content_credentials="on", trusted_signers=str(start / ".zoetrope" / "credentials" / "certificate.pem")
    )
    data = converted(signing, "jpeg")
    found = ask(trusting, data).json()
    assert (found["state"], found["failures"]) == ("valid", [])
    other = start / "other.pem"
    other.write_bytes(new_pair()[0])
    assert ask(open_edge(trusted_signers=str(other)), data).json()["state"] == "untrusted"


def test_a_list_of_trust_that_cannot_be_read_is_an_error_at_start(
    open_edge: Callable[..., World], tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=r"trusted_signers: .*gone.pem' cannot be read"):
        open_edge(trusted_signers=str(tmp_path / "gone.pem"))


def test_off_signs_nothing_and_still_reads(world: World, signing: World) -> None:
    assert ask(world, converted(world, "webp")).json()["error"]["code"] == "no_credentials"
    assert ask(world, converted(signing, "webp")).json()["state"] == "untrusted"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "file: the file is no PNG, JPEG, WebP or MP4"),
        (b"GIF89a" + bytes(64), "file: the file is no PNG, JPEG, WebP or MP4"),
        (picture(), "file: the file holds no content credentials"),
        (picture(kind="JPEG"), "file: the file holds no content credentials"),
        (picture(kind="WEBP"), "file: the file holds no content credentials"),
        (clip(1), "file: the file holds no content credentials"),
    ],
    ids=["empty", "gif", "png", "jpeg", "webp", "mp4"],
)
def test_a_file_without_credentials_is_refused_with_the_reason(world: World, data: bytes, said: str) -> None:
    answer = ask(world, data)
    assert answer.status_code == 422
    assert answer.json()["error"]["code"] == "no_credentials"
    assert answer.json()["detail"].startswith(said)


def test_no_file_is_told_as_for_a_recipe(world: World) -> None:
    for sent in ({"data": {"file": "x"}}, {"data": {"other": "x"}}):
        answers = [world.http.post(path, **sent) for path in ("/v1/recipe", "/v1/credentials")]
        assert [answer.status_code for answer in answers] == [422, 422]
        assert answers[0].json()["detail"] == answers[1].json()["detail"]


def test_without_the_package_the_answer_names_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("http_edge.media.credentials.is_installed", lambda: False)
    answer = ask(world, picture())
    assert answer.status_code == 400
    assert "pip install 'zoetrope[c2pa]'" in answer.json()["detail"]
