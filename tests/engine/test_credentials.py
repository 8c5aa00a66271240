"""Signed results: the same frames and recipes, a file that is the record's, and none where it cannot be signed."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from broker.runtime.content_credentials import DRAWN, DRAWN_INTO, Signer, SigningError, read_credentials
from broker.runtime.credential_files import CredentialFiles
from broker.runtime.recipe_file import recipe_text
from broker.wire.jobspec import Artefact, JobSpec, ModelCard
from broker.wire.recipe import MAX_RECIPE_BYTES, decode_recipe
from tests.engine.child import Child
from tests.engine.conftest import spec_for
from tests.engine.media import read_clip, top_level_boxes
from tests.engine.scripted import Recorder
from tests.support.credentials import made_at
from workers.engine.base import complete
from workers.engine.device import Device
from workers.engine.errors import WriteError
from workers.engine.fake import FakeEngine
from workers.engine.progress import Monitor
from workers.ipc.messages import JobFinished, LoadFailed, Ready

FAKE = ModelCard(name="fake", engine="fake", output="video", takes_image=True, also_image=True)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> CredentialFiles:
    return made_at(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def signer(files) -> Signer:
    return Signer(files, "1")


def draw(spec: JobSpec, place: Path, signer: Signer | None) -> tuple[Artefact, ...]:
    place.mkdir()
    monitor = Monitor(Recorder.recording(), 1, spec.num_outputs, Device("cpu", "auto", threads=1).meter)
    monitor.signer = signer
    return complete(FakeEngine().generate(FAKE, spec, place, monitor, "normal"))


def spec(**more) -> JobSpec:
    return spec_for(FAKE, **{"num_frames": 5, "width": 64, "height": 48, "seed": 3, **more})


@pytest.mark.parametrize(("output", "kind"), [("video", "video/mp4"), ("image", "image/png")])
def test_a_signed_result_is_the_unsigned_one_and_its_credentials(tmp_path, signer, output, kind):
    job = spec(output=output, num_outputs=2, num_frames=5 if output == "video" else 1)
    plain = draw(job, tmp_path / "plain", None)
    signed = draw(job, tmp_path / "signed", signer)
    assert sorted(one.name for one in (tmp_path / "signed").iterdir()) == sorted(one.name for one in signed)
    for before, after in zip(plain, signed, strict=True):
        path = tmp_path / "signed" / after.name
        assert (after.size, after.sha256) == (path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
        assert after.size > before.size
        with open(path, "rb") as file:
            found = read_credentials(file, kind, b"")
            file.seek(0)
            recipe = recipe_text(file, MAX_RECIPE_BYTES)
        assert (found.state, found.source_type, found.unsigned_sha256) == ("untrusted", DRAWN, before.sha256)
        assert found.recipe["request"] == decode_recipe(recipe).request
        if output == "image":
            pictures = [np.asarray(Image.open(tmp_path / place / after.name)) for place in ("plain", "signed")]
            assert np.array_equal(*pictures)
            continue
        clips = [read_clip(tmp_path / place / after.name) for place in ("plain", "signed")]
        assert np.array_equal(clips[0].frames, clips[1].frames)
        assert clips[0][:-1] == clips[1][:-1]
        boxes = top_level_boxes(path)
        assert boxes.index("moov") < boxes.index("mdat")


def test_a_job_that_tells_no_recipe_is_marked_without_one(tmp_path, signer):
    (made,) = draw(spec(recipe=False, prompt="a secret cat"), tmp_path / "a", signer)
    path = tmp_path / "a" / made.name
    assert b"secret" not in path.read_bytes()
    with open(path, "rb") as file:
        found = read_credentials(file, "video/mp4", b"")
    assert (found.state, found.source_type, found.recipe) == ("untrusted", DRAWN, None)


def test_a_picture_that_is_drawn_into_another_says_so(tmp_path, signer):
    mask = tmp_path / f"{'ab' * 32}.png"
    Image.new("L", (64, 48), 255).save(mask)
    inputs = {"mask_image": (str(mask),)}
    (made,) = draw(spec(output="image", num_frames=1, inputs=inputs), tmp_path / "a", signer)
    with open(tmp_path / "a" / made.name, "rb") as file:
        assert read_credentials(file, "image/png", b"").source_type == DRAWN_INTO


def test_what_cannot_be_signed_is_not_published(tmp_path, monkeypatch, signer):
    def refuse(*args, **more):
        raise SigningError("its content credentials could not be signed: the certificate has expired")

    monkeypatch.setattr(signer, "sign", refuse)
    with pytest.raises(WriteError, match=r"video.mp4 could not be written: .*the certificate has expired"):
        draw(spec(), tmp_path / "a", signer)
    assert list((tmp_path / "a").iterdir()) == []


def test_an_engine_process_signs_with_what_its_setup_names_or_does_not_start(tmp_path, files):
    child = Child()
    try:
        assert isinstance(child.setup(FAKE, credentials=files), Ready)
        ending = child.run(spec(), tmp_path)
        assert isinstance(ending, JobFinished)
        with open(tmp_path / "video.mp4", "rb") as file:
            assert read_credentials(file, "video/mp4", b"").state == "untrusted"
    finally:
        child.close()
    child = Child()
    try:
        gone = CredentialFiles(str(tmp_path / "gone.pem"), files.key)
        answer = child.setup(FAKE, credentials=gone)
        assert isinstance(answer, LoadFailed)
        assert "signing_certificate" in answer.message
        assert "gone.pem' cannot be read" in answer.message
    finally:
        child.close()
