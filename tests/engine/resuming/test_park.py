"""Parking: a job stops after a step with a checkpoint, is looked at as a draft, and goes on to what it would have been."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from broker.wire.job_files import preview_name
from tests.engine.resumed import STEPS, Rig, same
from tests.engine.scripted import ParkAt
from workers.engine.checkpoints import Checkpoints


def test_a_parked_job_goes_on_to_what_it_would_have_been(wan: Rig) -> None:
    whole = wan.draw(every_s=1000.0)
    all_steps, all_s = wan.asked, wan.denoise_s

    assert wan.park(ParkAt.at("denoise", 3)) == 4, "after the step that follows the word"
    assert wan.asked == all_steps * 4 // STEPS
    assert wan.files() == ["0-4.safetensors"]

    assert same(whole, wan.draw(every_s=1000.0))
    assert wan.asked == all_steps * 2 // STEPS
    assert wan.used["resumed"] == f"after step 4 of {STEPS}"
    assert wan.denoise_s == all_s > 0


def test_a_job_may_be_parked_again_and_again(wan: Rig) -> None:
    whole = wan.draw(every_s=1000.0)
    for step in (1, 3):
        assert wan.park(ParkAt.at("denoise", step)) == step + 1
    assert same(whole, wan.draw(every_s=1000.0))


def test_another_engine_does_not_encode_the_prompts_of_a_parked_job_again(wan: Rig) -> None:
    asked = {"negative_prompt": "a square", "guidance_scale": 4.0}
    whole = wan.draw(every_s=1000.0, **asked)
    wan.forget()
    wan.park(ParkAt.at("denoise", 3), **asked)
    wan.start()
    texts: list[object] = []
    wan.pipelines.get(wan.model.card).text_encoder.register_forward_hook(lambda *_: texts.append(1))
    assert same(whole, wan.draw(every_s=1000.0, **asked))
    assert texts == []
    wan.draw(every_s=1000.0, **(asked | {"prompt": "a green circle"}))
    assert texts, "of another job"


def test_before_the_first_step_there_is_nothing_to_wait_for(wan: Rig) -> None:
    assert wan.park(ParkAt.at("encode", 0)) == 0
    assert (wan.asked, wan.files()) == (0, [])

    wan.park(ParkAt.at("denoise", 2))
    assert wan.park(ParkAt.at("encode", 0)) == 3, "a checkpoint is there already"
    assert wan.asked == 0


def test_after_the_last_step_it_ends_as_usual(wan: Rig) -> None:
    whole = wan.draw(every_s=1000.0)
    assert same(whole, wan.draw(ParkAt.at("denoise", STEPS - 1), every_s=1000.0))
    assert same(whole, wan.draw(every_s=1000.0, park_at=STEPS))


def test_between_two_outputs_the_finished_one_is_kept(wan: Rig) -> None:
    whole = wan.draw(every_s=1000.0, num_outputs=2)
    all_steps = wan.asked
    assert wan.park(ParkAt.at("denoise", STEPS - 1), num_outputs=2) == STEPS
    assert wan.park(ParkAt.at("denoise", STEPS + 1), num_outputs=2) == STEPS + 2
    assert same(whole, wan.draw(every_s=1000.0, num_outputs=2))
    assert wan.asked == all_steps * (STEPS - 2) // (2 * STEPS)


def test_where_no_checkpoint_can_be_written_the_job_goes_on(wan: Rig) -> None:
    whole = wan.draw(every_s=1000.0)
    if wan.kept.exists():
        wan.kept.rmdir()
    wan.kept.write_text("no directory")
    try:
        assert same(whole, wan.draw(ParkAt.at("denoise", 2), every_s=1000.0))
    finally:
        wan.kept.unlink()
    assert wan.slot.progress().kept == 0


def test_a_job_with_a_step_cache_does_not_resume_and_is_not_parked(wan: Rig) -> None:
    whole = wan.draw(cache="safe", num_inference_steps=12)
    assert same(whole, wan.draw(ParkAt.at("denoise", 2), cache="safe", num_inference_steps=12))


def test_the_agent_is_shown_what_lies_on_disk(wan: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    wan.park(ParkAt.at("denoise", 3))
    wan.draw(every_s=1000.0)
    assert wan.slot.progress().kept == 4, "what an earlier attempt left"
    wan.draw(every_s=1000.0, request="another")
    assert wan.slot.progress().kept == 0, "what is there is of no use"

    keep = Checkpoints.keep
    monkeypatch.setattr(Checkpoints, "keep", lambda self, *args: (keep(self, *args), self.settle()))
    wan.draw(num_outputs=2, request="a third")
    assert wan.slot.progress().kept == 2 * STEPS


# ---------------------------------------------------------------- drafts


def test_a_draft_of_a_clip_is_a_clip_and_the_clip_that_follows_is_the_same(wan: Rig) -> None:
    whole = wan.draw(every_s=1000.0)

    assert wan.park(park_at=4) == 4

    assert wan.files() == ["0-4.safetensors", "draft.mp4", "draft.png"]
    with av.open(str(wan.kept / "draft.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert np.stack(frames).shape == whole[0].shape
    with Image.open(wan.place / "out" / preview_name(1)) as shown:
        assert shown.size == whole[0].shape[2:0:-1], "its first frame"
    assert same(whole, wan.draw(every_s=1000.0))


def test_a_draft_of_a_picture_is_nearer_to_it_the_later_it_is_drawn(stable_diffusion: Rig) -> None:
    [whole] = stable_diffusion.draw(every_s=1000.0)
    far = []
    for step in (1, STEPS - 1):
        assert stable_diffusion.park(park_at=step) == step
        with Image.open(stable_diffusion.kept / "draft.png") as shown:
            draft = np.asarray(shown).astype(int)
        assert draft.shape == whole.shape
        far.append(float(np.abs(draft - whole).mean()))
        again = stable_diffusion.draw(every_s=1000.0)
        assert same([whole], again)
        stable_diffusion.forget()
    assert far[0] > far[1]


def test_a_draft_that_cannot_be_drawn_does_not_keep_the_job_from_being_parked(
    stable_diffusion: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr("workers.engine.previews.decode", fails)
    assert stable_diffusion.park(park_at=3) == 3
    assert not Path(stable_diffusion.kept / "draft.png").exists()


def test_a_draft_that_was_interrupted_is_drawn_when_the_step_is_reached_again(wan: Rig) -> None:
    wan.stop_after(2, park_at=4)
    assert wan.park(park_at=4) == 4
    assert (wan.kept / "draft.mp4").is_file()
    drawn = (wan.place / "out" / preview_name(1)).read_bytes()
    (wan.place / "out" / preview_name(1)).unlink()
    assert wan.park(park_at=4) == 4, "handed back at once"
    assert wan.asked == 0
    assert (wan.place / "out" / preview_name(1)).read_bytes() == drawn, "the next attempt shows it, too"


def test_drafts_of_several_outputs_wait_together_and_all_go_on_to_what_they_would_have_been(wan: Rig) -> None:
    whole = wan.draw(every_s=1000.0, num_outputs=3)
    all_steps = wan.asked

    assert wan.park(park_at=12, num_outputs=3) == 12, "four steps of each"
    assert wan.files() == [
        *(f"{output}-4.safetensors" for output in range(3)),
        *(f"draft-{number}.{kind}" for number in (2, 3) for kind in ("mp4", "png")),
        *("draft.mp4", "draft.png"),
    ]
    shown = sorted(path.name for path in (wan.place / "out").glob("preview-*"))
    assert shown == [preview_name(number) for number in (1, 2, 3)]
    assert wan.asked == all_steps * 12 // (3 * STEPS)

    assert same(whole, wan.draw(every_s=1000.0, num_outputs=3))
    assert wan.asked == all_steps * 6 // (3 * STEPS)


def test_drafts_of_several_pictures_are_each_of_its_own(stable_diffusion: Rig) -> None:
    whole = stable_diffusion.draw(every_s=1000.0, num_outputs=2)
    assert stable_diffusion.park(park_at=10, num_outputs=2) == 10
    pictures = [np.asarray(Image.open(stable_diffusion.kept / name)) for name in ("draft.png", "draft-2.png")]
    far = [[np.abs(draft.astype(int) - one).mean() for one in whole] for draft in pictures]
    assert far[0][0] < far[0][1], "each is nearest to its own picture"
    assert far[1][1] < far[1][0], "each is nearest to its own picture"
    assert same(whole, stable_diffusion.draw(every_s=1000.0, num_outputs=2))


@pytest.mark.parametrize("died_after", [2, STEPS + 1])
def test_drafts_of_several_outputs_that_were_interrupted_go_on(wan: Rig, died_after: int) -> None:
    whole = wan.draw(every_s=1000.0, num_outputs=2)
    wan.stop_after(died_after, park_at=8, num_outputs=2)
    assert wan.park(park_at=8, num_outputs=2) == 8
    assert wan.park(park_at=8, num_outputs=2) == 8, "handed back at once"
    assert wan.asked == 0
    assert same(whole, wan.draw(every_s=1000.0, num_outputs=2))


def test_a_job_may_be_parked_between_the_drafts_of_its_outputs_and_after_them(wan: Rig) -> None:
    whole = wan.draw(every_s=1000.0, num_outputs=2)
    assert wan.park(ParkAt.at("denoise", STEPS + 1), park_at=8, num_outputs=2) == 4 + 2
    assert wan.park(park_at=8, num_outputs=2) == 8
    # Committed, and asked for when the first output is denoised: that is kept beside the draft of the second.
    assert wan.park(ParkAt.at("denoise", STEPS), num_outputs=2) == STEPS + 4
    assert "0-6.safetensors" in wan.files()
    assert same(whole, wan.draw(every_s=1000.0, num_outputs=2))


def test_a_draft_after_the_last_step_is_the_output(wan: Rig) -> None:
    whole = wan.draw(every_s=1000.0, num_outputs=2)
    wan.forget()
    assert same(whole, wan.draw(every_s=1000.0, park_at=2 * STEPS, num_outputs=2))


def test_a_draft_is_the_newest_of_the_previews(stable_diffusion: Rig) -> None:
    stable_diffusion.park(park_at=4, previews=2)
    shown = sorted(path.name for path in (stable_diffusion.place / "out").glob("preview-*"))
    assert shown == [preview_name(number) for number in (1, 2, 3)]
    newest = (stable_diffusion.place / "out" / preview_name(3)).read_bytes()
    assert newest == (stable_diffusion.kept / "draft.png").read_bytes()
