"""Every class of the suite is held to every check. What is known to fail must fail, and is struck off `cases.py` when it is mended."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from broker.wire.loras import LoraUse
from tests.engine.families.cases import CASES, CHECKS, NOT_RUN, UNFIT, Case
from tests.engine.families.served import LORA, Drawn, Served, differing, state
from tests.engine.media import read_sound
from workers.ipc.messages import JobCancelled, JobFailed, JobFinished
from workers.models.abilities import what_is_missing
from workers.models.catalogue import card_for, model_for
from workers.models.pipeline_classes import all_classes
from workers.models.sources import CatalogueError

# The libraries warn of many a thing that a tiny model is.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.label)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Served:
    case = request.param
    if case.package:
        pytest.importorskip(case.package)
    return Served(case, tmp_path_factory.mktemp(case.name))


@pytest.fixture(autouse=True)
def known_fault(request: pytest.FixtureRequest) -> None:
    """A check that is known to fail must fail."""
    if "served" not in request.fixturenames:
        return
    case = request.node.callspec.params["served"]
    check = request.node.originalname.removeprefix("test_")
    if reason := case.faults.get(check) or case.faults.get("all"):
        request.applymarker(pytest.mark.xfail(strict=True, reason=reason))


def test_card(served: Served) -> None:
    case, card = served.case, served.card

    assert (card.output, card.engine) == (case.output, case.output)
    assert (card.takes_image, card.needs_image) == (case.picture != "no", case.picture == "must")
    assert (set(card.takes_inputs), set(card.needs_inputs)) == ({*case.needs, *case.takes}, set(case.needs))
    if case.output == "video":
        counts = range(case.frame_least, card.limits.max_frames + 1)
        grid = [count for count in counts if (count - case.frame_offset) % case.frame_step == 0]
        right = list(case.frame_choices) or grid
        assert [count for count in counts if card.limits.allows_frames(count)] == right


def test_size(served: Served) -> None:
    _is_as_asked(served, served.base)
    assert served.card.takes_size == ("size" not in served.case.without)


def test_shape(served: Served) -> None:
    _is_as_asked(served, served.shaped)


def _is_as_asked(served: Served, drawn: Drawn) -> None:
    artefact = drawn.finished().result.artefacts[0]
    count, height, width, _ = drawn.frames[0].shape

    assert count == drawn.spec.num_frames
    if "size" not in served.case.without:
        assert (width, height) == (drawn.spec.width, drawn.spec.height)
    assert (artefact.width, artefact.height, artefact.num_frames) == (width, height, count)
    path = drawn.place / artefact.name
    if artefact.media_type == "image/png":
        with Image.open(path) as picture:
            assert picture.size == (width, height)
    else:
        with av.open(str(path)) as clip:
            stream = clip.streams.video[0]
            assert (stream.width, stream.height, stream.frames) == (width, height, count)


def test_picture(served: Served) -> None:
    """Whether it takes one is for the card to say, which another check compares."""
    if served.case.picture != "must":
        refused = served.draw(image=str(served.picture)) if served.case.picture == "no" else None
    else:
        refused = served.draw(image="")
    if refused is not None:
        assert isinstance(refused.ending, JobFailed), refused.ending
        assert refused.ending.kind == "invalid_input"
        assert refused.ending.message.startswith("image: ")
    if served.case.picture != "no":
        one = served.base if served.card.needs_image else served.draw(image=str(served.picture))
        other = served.draw(image=str(served.other_picture))
        _is_as_asked(served, other)
        one.finished()
        assert not _same(one, other)
    if served.case.strength:
        few = served.draw(num_inference_steps=1).ending
        assert isinstance(few, JobFinished) or (few.kind == "invalid_input" and "strength" in few.message), few


def test_inputs(served: Served) -> None:
    case, needed = served.case, served.base.spec.inputs
    for role in (*case.needs, *case.takes):
        beside = {**needed, **{other: served.media(other) for other in _beside(case, role)}}
        # A clip to go on from stands for the picture.
        image = str(served.picture) if case.picture != "no" and role != "start_video" else ""
        drawn = [served.draw(image=image, inputs={**beside, role: served.media(role, which)}) for which in (0, 1)]
        for each in drawn:
            _is_as_asked(served, each)
        assert not _same(*drawn), role
        if role in case.takes:
            without = needed if "background_video" in beside or role == "background_video" else beside
            assert not _same(served.draw(image=image, inputs=without), drawn[0]), role
    for role in case.needs:
        _is_refused(served.draw(inputs={other: paths for other, paths in needed.items() if other != role}), role)
    if not case.uses("mask"):
        _is_refused(served.draw(inputs={**needed, "mask_image": served.media("mask_image")}), "mask_image")


def _beside(case: Case, role: str) -> tuple[str, ...]:
    """Roles of what must be beside: a mask is one of something, and tells of a background what is kept."""
    if role == "background_video":
        return ("mask_video",)
    if role in ("mask_image", "mask_video") and case.output == "video":
        return ("background_video",) if "background_video" in case.takes else ("video",)
    return ()


def _is_refused(drawn: Drawn, role: str) -> None:
    assert isinstance(drawn.ending, JobFailed), drawn.ending
    assert drawn.ending.kind == "invalid_input"
    assert drawn.ending.message.startswith(f"{role}: ")


def test_progress(served: Served) -> None:
    served.base.finished()
    steps = [(step, total) for phase, step, total in served.base.seen if phase == "denoise"]

    assert steps, "no step was shown"
    assert steps == sorted(steps)
    assert steps[-1][0] == steps[-1][1] > 0


def test_seed(served: Served) -> None:
    base, again, other = served.base, served.draw(), served.other_seed
    for drawn in (base, again, other):
        drawn.finished()

    assert _same(base, again)
    assert not _same(base, other)


def test_bfloat16(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    given = [{}, {"image": str(served.picture)}] if served.case.picture == "may" else [{}]
    with served.reloaded("bfloat16"):
        drawn = [served.draw(previews=1, **one) for one in given]

    for one in drawn:
        one.finished()
        assert [frames.shape for frames in one.frames] == [frames.shape for frames in served.base.frames]
    assert [record.reason for record in caplog.records if record.getMessage().startswith("no more previews")] == []


def test_cancel(served: Served) -> None:
    served.base.finished()
    before = state(served.pipe)

    for phase, step, hits in (("encode", 0, 2), ("denoise", 1, 1)):
        drawn, slot = served.cancel(phase, step, hits)

        assert isinstance(drawn.ending, JobCancelled), drawn.ending
        # Where no prompt is encoded, the first step comes at once.
        reached = phase if served.case.prompt and served.case.encodes else "denoise"
        assert (slot.progress().phase, slot.progress().step) == (reached, step)
        assert list(drawn.place.iterdir()) == []
        assert differing(before, state(served.pipe)) == []
    assert _same(served.base, served.draw())


def test_resume(served: Served) -> None:
    served.shaped.finished()

    for back in (0, 1) if served.card.resumes else (0,):
        again = served.resumed(back)

        assert _same(served.shaped, again)
        reported = again.finished().result.used.get("resumed", "")
        assert served.card.resumes == reported.startswith("after step "), reported


def test_outputs(served: Served) -> None:
    two = served.draw(num_outputs=2)

    assert len(two.finished().result.artefacts) == 2
    assert np.array_equal(two.frames[0], served.base.frames[0])
    assert np.array_equal(two.frames[1], served.other_seed.frames[0])


def test_overlap(served: Served) -> None:
    """Drawn alone before, so that what they take is known and the tail may be handed over."""
    alone = (served.base, served.other_seed)

    beside = served.run(tuple(drawn.spec for drawn in alone), overlap=True)

    for drawn in beside:
        drawn.finished()
    assert beside[0].handed_over
    assert [_same(*pair) for pair in zip(alone, beside, strict=True)] == [True, True]


def test_negative_prompt(served: Served) -> None:
    drawn = served.draw(guidance_scale=served.guided.spec.guidance_scale, negative_prompt="blue square moving")

    for each in (served.guided, drawn):
        each.finished()
    assert _same(served.guided, drawn) == ("negative_prompt" in served.case.without)
    assert served.card.takes_negative_prompt == ("negative_prompt" not in served.case.without)


def test_guidance(served: Served) -> None:
    scaled = served.draw(guidance_scale=9.0)

    for drawn in (served.guided, scaled):
        drawn.finished()
    assert _same(served.guided, scaled) == ("guidance_scale" in served.case.without)
    assert served.card.takes_guidance == ("guidance_scale" not in served.case.without)


def test_guidance_2(served: Served) -> None:
    drawn = served.draw(guidance_scale_2=9.0)

    drawn.finished()
    assert _same(served.base, drawn) == (not served.case.experts)
    assert served.card.takes_guidance_2 == served.case.experts


def test_max_sequence_length(served: Served) -> None:
    served.draw(max_sequence_length=16).finished()


def test_sound(served: Served) -> None:
    case = served.case
    assert served.card.sound == case.sound
    if not case.sound or case.sound_by:
        assert served.base.finished().result.artefacts[0].sound_s == 0.0
    if not case.sound:
        return
    drawn = served.draw(extra={case.sound_by: True}) if case.sound_by else served.base
    (artefact,) = drawn.finished().result.artefacts
    heard = read_sound(drawn.place / artefact.name)
    assert heard.rate == 16_000  # that of the tiny vocoders
    assert heard.seconds == pytest.approx(heard.clip_s, abs=0.002)
    assert artefact.sound_s == pytest.approx(heard.seconds)
    assert np.abs(heard.samples).max() > 0
    assert drawn.finished().result.warnings == ()


def test_lora(served: Served) -> None:
    table = {"loras": {LORA: str(served.lora)}}
    if not served.takes_loras:
        with pytest.raises(CatalogueError, match="takes no LoRA"):
            model_for(served.card.source, "m", table)
        return
    assert [*model_for(served.card.source, "m", table).card.loras] == [LORA]
    if not served.case.lora:
        return
    served.base.finished()
    drawn = served.draw(loras=(LoraUse(name=LORA),))
    assert drawn.finished().result.used["loras"] == f"{LORA} 1"
    assert not _same(served.base, drawn)
    assert _same(served.base, served.draw())


def _same(one: Drawn, other: Drawn) -> bool:
    return np.array_equal(one.frames[0], other.frames[0])


@pytest.mark.parametrize(("name", "needs"), UNFIT.items())
def test_an_unfit_class_is_refused_in_one_sentence(name: str, needs: str, tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": name}))

    with pytest.raises(CatalogueError) as refused:
        card_for(str(tmp_path), "unfit")

    text = str(refused.value)
    assert name in text
    assert needs in text
    assert "\n" not in text


@pytest.mark.parametrize("name", [name for names in NOT_RUN.values() for name in names])
def test_a_class_that_is_not_run_here_has_a_card(name: str, tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": name}))

    assert card_for(str(tmp_path), "card").pipeline == name


def test_every_class_of_the_library_is_known() -> None:
    """Each class that gets a card is held to the checks, or said not to be; the others are refused in one sentence."""
    tried = {case.name for case in CASES}
    not_run = {name for names in NOT_RUN.values() for name in names}
    refused = {taken.name: needs for taken in all_classes() if (needs := what_is_missing(taken))}
    carded = {taken.name for taken in all_classes()} - refused.keys()

    assert tried | not_run == carded
    assert tried & not_run == set()
    assert UNFIT.keys() <= refused.keys()
    assert [needs for needs in refused.values() if "\n" in needs or needs.endswith(".")] == []


def test_table_names_the_checks_there_are() -> None:
    """The documents print the table; a fault of a check that is not there would excuse nothing."""
    checks = {
        name.removeprefix("test_")
        for name, test in globals().items()
        if name.startswith("test_") and "served" in inspect.signature(test).parameters
    }
    labels = [case.label for case in CASES]

    assert checks == set(CHECKS)
    assert {check for case in CASES for check in case.faults} <= checks | {"all"}
    assert len(labels) == len(set(labels))
