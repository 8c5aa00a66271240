"""One reading of what is to be generated, in every API: names, values, contradictions; and what is done with what cannot be honoured."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from http_edge.jobs.fields import FIELDS, NAMES, UNSUPPORTED
from tests.edge.api_families import APIS, drawn, message, send, use
from tests.edge.conftest import World
from tests.edge.small_media import picture
from tests.testing.fake_broker import ANIMATE, PICTURE, VIDEO

#: Those that refuse what they cannot honour.
STRICT = ("native", "tasks", "gen1", "cloud")


def finish(world: World) -> None:
    """Let the newest job run and succeed."""
    job_id = list(world.fake.jobs)[-1]
    world.do(world.fake.run, job_id)
    world.do(world.fake.succeed, job_id)


#: (what is sent, what is drawn): the same in every API, from JSON and forms.
ALIKE: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"steps": 3}, {"num_inference_steps": 3}),
    ({"num_steps": "3"}, {"num_inference_steps": 3}),
    ({"infer_steps": "3.0"}, {"num_inference_steps": 3}),
    ({"guidance": 2.5}, {"guidance_scale": 2.5}),
    ({"cfg_scale": "2.5"}, {"guidance_scale": 2.5}),
    ({"cfg": 2}, {"guidance_scale": 2.0}),
    ({"length": 9}, {"num_frames": 9}),
    ({"frames": "9"}, {"num_frames": 9}),
    ({"duration": 2}, {"num_frames": 17}),
    ({"seconds": "4"}, {"num_frames": 33}),
    ({"target_fps": "12"}, {"fps": 12.0}),
    ({"negative": "dull"}, {"negative_prompt": "dull"}),
    ({"size": "96X64"}, {"width": 96, "height": 64}),
    ({"resolution": "96x64"}, {"width": 96, "height": 64}),
    ({"size": "auto"}, {"width": 64, "height": 64}),
    ({"aspect_ratio": "16:9"}, {"width": 80, "height": 48}),
    ({"width": "96", "height": 64}, {"width": 96, "height": 64}),
    ({"seed": "17"}, {"seed": 17}),
    ({"width": "", "seed": "", "size": ""}, {"width": 64}),
]


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("how", ["json", "form"])
@pytest.mark.parametrize(("sent", "made"), ALIKE, ids=[str(row[0]) for row in ALIKE])
def test_a_value_means_the_same_everywhere(
    world: World, api: str, how: str, sent: dict[str, Any], made: dict[str, Any]
) -> None:
    answer = send(world, api, how, **sent)
    assert answer.status_code == 200, answer.text
    spec = drawn(world)
    assert {name: getattr(spec, name) for name in made} == made
    assert spec.warnings == ()


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("seed", [-1, "-1"])
def test_minus_one_draws_a_seed(world: World, api: str, seed: Any) -> None:
    seeds = set()
    for number in range(3):
        assert send(world, api, seed=seed, prompt=f"cat {number}").status_code == 200
        seeds.add(drawn(world).seed)
        finish(world)
    assert len(seeds) == 3
    assert all(0 <= one < 2**32 for one in seeds)


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("size", [[64, 64], "64,64", "[64, 64]", ["64", "64"]])
def test_equal_sides_are_a_size_everywhere(world: World, api: str, size: Any) -> None:
    assert send(world, api, size=size).status_code == 200
    assert (drawn(world).width, drawn(world).height) == (64, 64)


@pytest.mark.parametrize("api", APIS)
def test_which_of_two_unequal_sides_is_the_width_is_lightx2vs_word_alone(world: World, api: str) -> None:
    answer = send(world, api, size=[48, 96])
    if api in ("native", "openai"):
        assert "does not say which is the width" in message(answer)
    else:
        assert (drawn(world).width, drawn(world).height) == (96, 48)


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize(
    "sent", [{"width": True}, {"width": [64]}, {"width": "wide"}, {"seed": 1.5}, {"fps": {}}, {"guidance_scale": "2,3"}]
)
def test_a_bad_value_is_bad_everywhere(world: World, api: str, sent: dict[str, Any]) -> None:
    assert send(world, api, **sent).status_code in (400, 422)
    assert world.fake.jobs == {}


@pytest.mark.parametrize("api", ["native", "openai"])
@pytest.mark.parametrize("name", ["n", "batch_size", "num_images", "num_outputs", "num_outputs_per_prompt"])
def test_how_many_has_many_names(world: World, api: str, name: str) -> None:
    assert send(world, api, **{name: 3}).status_code == 200
    assert drawn(world).num_outputs == 3


# ---------------------------------------------------------------- contradictions


@pytest.mark.parametrize("api", STRICT)
def test_two_names_of_one_field_with_different_values_are_refused_with_both(world: World, api: str) -> None:
    answer = send(world, api, num_inference_steps=4, steps=5)
    assert answer.status_code in (400, 422)
    for word in ("num_inference_steps", "steps", "4 and 5"):
        assert word in message(answer)
    assert world.fake.jobs == {}


@pytest.mark.parametrize("api", APIS)
def test_two_names_with_the_same_value_agree(world: World, api: str) -> None:
    assert send(world, api, num_inference_steps=4, steps="4").status_code == 200
    assert (drawn(world).num_inference_steps, drawn(world).warnings) == (4, ())


def test_in_openais_family_the_first_counts_and_the_other_is_told_of(world: World) -> None:
    warnings = send(world, "openai", num_inference_steps=4, steps=5, size="96x64", width=64).json()["warnings"]
    assert (drawn(world).num_inference_steps, drawn(world).width) == (4, 96)
    assert sorted(warning.partition(":")[0] for warning in warnings) == ["steps", "width"]


def test_a_length_beside_another_and_a_shape_beside_a_size_are_told_of(world: World) -> None:
    send(world, "native", num_frames=9, seconds=4, size="64x64", aspect_ratio="16:9")
    assert drawn(world).num_frames == 9
    assert [warning.partition(":")[0] for warning in drawn(world).warnings] == ["aspect_ratio", "seconds"]
    send(world, "native", num_frames=33, seconds=4, size="80x48", aspect_ratio="16:9")
    assert drawn(world).warnings == ()


def test_a_field_among_the_further_arguments_is_the_field(world: World) -> None:
    send(world, "native", extra={"num_inference_steps": 5, "guidance_scale": "2", "eta": "0.5", "on": "true"})
    assert (drawn(world).num_inference_steps, drawn(world).guidance_scale) == (5, 2.0)
    assert drawn(world).extra == {"eta": 0.5, "on": True}
    assert send(world, "native", num_inference_steps=4, extra={"num_inference_steps": 5}).status_code == 422


# ---------------------------------------------------------------- what nobody reads


@pytest.mark.parametrize(
    ("sent", "hint"),
    [
        ({"num_infrence_steps": 4}, "did you mean num_inference_steps?"),
        ({"Seed": 4}, "did you mean seed?"),
        ({"negativ_prompt": "x"}, "did you mean negative_prompt?"),
        ({"prioritty": 1}, "did you mean priority?"),
        ({"numInferenceSteps": 4}, "did you mean num_inference_steps?"),
        ({"zzz": 4}, "zzz: unknown field; its value: 4"),
    ],
)
def test_an_unknown_field_of_the_native_api_is_refused_with_what_was_meant(
    world: World, sent: dict[str, Any], hint: str
) -> None:
    answer = send(world, "native", **sent)
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, next(iter(sent)))
    assert hint in message(answer)
    assert world.fake.jobs == {}


@pytest.mark.parametrize("value", [None, "", [], {}])
def test_an_unknown_field_that_asks_for_nothing_is_no_news(world: World, value: Any) -> None:
    for api in APIS:
        assert send(world, api, zzz=value, upscale=value).status_code == 200
        assert drawn(world).warnings == ()


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("name", ["lora_weights", "audio", "video_noise_mask", "scheduler"])
def test_what_would_change_the_picture_is_never_dropped_in_silence(world: World, api: str, name: str) -> None:
    answer = send(world, api, **{name: "something"})
    if api == "openai":
        assert [warning.partition(":")[0] for warning in answer.json()["warnings"]] == [name]
        return
    assert answer.status_code in (400, 422)
    assert f'{name}: "something" is not supported' in message(answer)
    assert world.fake.jobs == {}


@pytest.mark.parametrize("api", ["native", "tasks", "gen1", "cloud", "openai"])
def test_neither_is_an_uploaded_file(world: World, api: str) -> None:
    path, own = APIS[api]
    files = {"picture_of_my_cat": ("a.png", picture(), "image/png")}
    answer = world.http.post(path, data={"prompt": "a", **own}, files=files)
    if api == "openai":
        assert answer.json()["warnings"] == ["picture_of_my_cat: not supported by this service, ignored"]
        return
    assert answer.status_code in (400, 422)
    assert "picture_of_my_cat" in message(answer)


def test_no_name_of_a_field_is_said_to_be_unsupported() -> None:
    assert not UNSUPPORTED & set(NAMES)
    assert len(NAMES) == sum(len(field.names) for field in FIELDS.values())


# ---------------------------------------------------------------- what this model does not take


@pytest.mark.parametrize("api", APIS)
def test_a_second_guidance_without_a_second_expert_is_told_of_and_not_passed_on(world: World, api: str) -> None:
    use(world, msgspec.structs.replace(VIDEO, takes_guidance_2=False))
    assert send(world, api, guidance_scale=2, guidance_scale_2=3).status_code == 200
    assert (drawn(world).guidance_scale, drawn(world).guidance_scale_2) == (2.0, None)
    assert drawn(world).warnings == ('guidance_scale_2: has no effect on model "demo", ignored',)


@pytest.mark.parametrize("api", APIS)
def test_so_is_every_other_field_without_effect(world: World, api: str) -> None:
    use(world, msgspec.structs.replace(VIDEO, takes_negative_prompt=False, takes_guidance=False, takes_size=False))
    assert send(world, api, cfg=2, negative_prompt="dull", size="96x64").status_code == 200
    assert [warning.partition(":")[0] for warning in drawn(world).warnings] == ["negative_prompt", "cfg", "size"]
    assert drawn(world).negative_prompt in ("", "blurry")


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("name", ["true_cfg_scale", "strength"])
def test_an_argument_that_the_pipeline_does_not_take(world: World, api: str, name: str) -> None:
    card = msgspec.structs.replace(VIDEO, takes_image=True, extra_parameters=("eta",))
    use(world, card)
    image = {"native": "image", "openai": "input_reference", "cloud": "input_image"}.get(api, "image_path")
    (world.start / "cat.png").write_bytes(picture())
    source = {"type": "base64", "data": base64.b64encode(picture()).decode()} if api == "cloud" else "cat.png"
    answer = send(world, api, **{name: 0.5, image: source})
    if api == "openai":
        assert answer.json()["warnings"] == [f'{name}: model "demo" does not take it, ignored']
        assert drawn(world).extra == {}
        return
    assert answer.status_code in (400, 422)
    assert f'{name}: 0.5 is not supported: model "demo" does not take it' in message(answer)


def test_a_further_argument_that_the_pipeline_does_not_take_is_told_of(world: World) -> None:
    use(world, msgspec.structs.replace(VIDEO, extra_parameters=("eta",)))
    send(world, "native", extra={"eta": 0.5, "etta": 0.5})
    assert (drawn(world).extra, drawn(world).warnings) == (
        {"eta": 0.5},
        ('extra.etta: model "demo" does not take it, ignored',),
    )


@pytest.mark.parametrize("sent", [{"strength": 0.2, "steps": 4}, {"extra": {"strength": 0}}])
def test_too_few_steps_for_a_strength_draw_nothing(world: World, sent: dict[str, Any]) -> None:
    use(world, msgspec.structs.replace(ANIMATE, default_strength=0.8))
    (world.start / "cat.png").write_bytes(picture())
    answer = send(world, "native", image="cat.png", **sent)
    assert answer.status_code == 422
    assert "strength" in message(answer)
    assert "leaves no step" in message(answer)
    assert send(world, "native", image="cat.png", strength=0.25, steps=4).status_code == 200


def test_a_draft_must_come_before_the_last_of_the_steps_that_a_strength_leaves(world: World) -> None:
    use(world, msgspec.structs.replace(ANIMATE, default_strength=0.5, resumes=True))
    (world.start / "cat.png").write_bytes(picture())
    for draft_steps in (5, 7):
        answer = send(world, "native", image="cat.png", steps=10, draft_steps=draft_steps)
        assert answer.status_code == 422
        assert f"draft_steps: {draft_steps} must be less than 5, the steps that its strength leaves of 10" in message(
            answer
        )
    assert send(world, "native", image="cat.png", steps=10, draft_steps=4).status_code == 200


def test_too_few_steps_for_the_models_own_strength_name_it(world: World) -> None:
    use(world, msgspec.structs.replace(ANIMATE, default_strength=0.3))
    (world.start / "cat.png").write_bytes(picture())
    answer = send(world, "native", image="cat.png", num_inference_steps=3)
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "num_inference_steps")
    assert "strength: 0.3, the model's own, x num_inference_steps 3" in message(answer)


# ---------------------------------------------------------------- where warnings are told


def test_every_api_tells_of_warnings_as_long_as_the_job_is_there(world: World) -> None:
    use(world, msgspec.structs.replace(VIDEO, takes_guidance_2=False))
    expected = ['guidance_scale_2: has no effect on model "demo", ignored']
    answers = {}
    for api in APIS:
        answers[api] = send(world, api, guidance_scale_2=3).json()
        assert answers[api]["warnings"] == expected
        finish(world)
    job, video, task, cloud = (answers[api] for api in ("native", "openai", "tasks", "cloud"))
    shown = [
        world.http.get(job["urls"]["self"]),
        world.http.get(f"/v1/videos/{video['id']}"),
        world.http.get(f"/v1/tasks/{task['task_id']}/status"),
        world.http.get("/v1/local/video/generate/task_status?task_id=t"),
        world.http.get(f"/api/v1/task/query?task_id={cloud['task_id']}"),
    ]
    assert [answer.json()["warnings"] for answer in shown] == [expected] * 5


def test_an_image_task_tells_of_the_fields_of_clips(open_edge: Callable[..., World]) -> None:
    world = open_edge()
    use(world, PICTURE)
    answer = world.http.post("/v1/tasks/image", json={"prompt": "a", "target_video_length": 81, "seconds": 5})
    assert answer.json()["warnings"] == [
        "target_video_length: this task makes an image, ignored",
        "seconds: this task makes an image, ignored",
    ]
