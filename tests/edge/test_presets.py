"""Presets of a model: chosen by a request, in every API; what contradicts one is an error."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from broker.wire.jobspec import Defaults
from broker.wire.sampling import Sampler
from tests.edge.api_families import APIS, drawn, message, send, use
from tests.edge.conftest import World
from tests.testing.fake_broker import VIDEO

FAST = Sampler(kind="euler", sigmas=(1.0, 0.75, 0.5, 0.25), shift=5.0, guidance=1.0, fixed=True)
LOOSE = Sampler(kind="lcm", steps=4, shift=8.0, guidance=1.5)


@pytest.fixture
def with_presets(world: World) -> World:
    defaults = msgspec.structs.replace(VIDEO.defaults, num_inference_steps=20, guidance_scale=5.0, guidance_scale_2=4.0)
    use(world, msgspec.structs.replace(VIDEO, presets={"fast": FAST, "loose": LOOSE}, defaults=defaults))
    return world


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("how", ["json", "form"])
def test_a_preset_brings_its_steps_and_guidance(with_presets: World, api: str, how: str) -> None:
    answer = send(with_presets, api, how, preset="fast")
    assert answer.status_code == 200, answer.text
    spec = drawn(with_presets)
    assert (spec.preset, spec.num_inference_steps, spec.guidance_scale, spec.guidance_scale_2) == ("fast", 4, 1.0, 1.0)


def test_without_one_the_models_defaults_count(with_presets: World) -> None:
    assert send(with_presets, "native").status_code == 200
    spec = drawn(with_presets)
    assert (spec.preset, spec.num_inference_steps, spec.guidance_scale, spec.guidance_scale_2) == ("", 20, 5.0, 4.0)


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize(
    ("sent", "own"),
    [
        ({"steps": 50}, "4"),
        ({"guidance_scale": 5}, "1"),
        ({"guidance_scale_2": 3}, "1"),
        ({"flow_shift": 3}, "5"),
        ({"true_cfg_scale": 4}, "1 at most"),
    ],
)
def test_what_contradicts_it_is_an_error_that_says_so(
    with_presets: World, api: str, sent: dict[str, Any], own: str
) -> None:
    answer = send(with_presets, api, preset="fast", **sent)
    assert answer.status_code in (400, 422), answer.text
    (name,) = sent
    reported = answer.text if api == "openai" else message(answer)
    reported = reported.replace('\\"', '"')
    assert f'contradicts preset "fast", in which it is {own}; leave {name} out, or choose another preset' in reported


def test_what_says_the_same_is_none(with_presets: World) -> None:
    sent = {"steps": 4, "cfg": 1, "guidance_scale_2": 1, "extra": {"flow_shift": 5}}
    assert send(with_presets, "native", preset="fast", **sent).status_code == 200


def test_without_guidance_a_negative_prompt_is_told_of(with_presets: World) -> None:
    answer = send(with_presets, "native", preset="fast", negative_prompt="dull")
    assert answer.json()["warnings"] == [
        'negative_prompt: has no effect with preset "fast", which draws without guidance, ignored'
    ]
    assert drawn(with_presets).negative_prompt == ""


def test_a_preset_that_only_gives_defaults_lets_a_request_have_its_way(with_presets: World) -> None:
    assert send(with_presets, "native", preset="loose", steps=8, guidance_scale=3, flow_shift=4).status_code == 200
    spec = drawn(with_presets)
    assert (spec.num_inference_steps, spec.guidance_scale, spec.extra) == (8, 3.0, {"flow_shift": 4.0})


def test_an_unknown_one_names_those_there_are(with_presets: World) -> None:
    answer = send(with_presets, "native", preset="fats")
    assert answer.status_code == 422
    assert 'preset: "fats" is not a preset of model "demo"; known: fast, loose' in message(answer)


def test_the_models_own_sampler_may_fix_its_steps(world: World) -> None:
    defaults = Defaults(width=64, height=64, num_frames=17, fps=8.0, num_inference_steps=4, guidance_scale=1.0)
    use(world, msgspec.structs.replace(VIDEO, sampler=FAST, defaults=defaults))
    assert send(world, "native").status_code == 200
    answer = send(world, "native", steps=50)
    assert answer.status_code == 422
    assert 'steps: 50 contradicts the sampler of model "demo", in which it is 4' in message(answer)


def test_models_list_what_may_be_chosen(with_presets: World) -> None:
    (model,) = with_presets.http.get("/v1/models").json()["data"]
    assert model["presets"] == {
        "fast": {"kind": "euler", "sigmas": [1.0, 0.75, 0.5, 0.25], "shift": 5.0, "guidance": 1.0, "fixed": True},
        "loose": {"kind": "lcm", "steps": 4, "shift": 8.0, "guidance": 1.5},
    }
    assert model["sampler"] is None


# ---------------------------------------------------------------- step caches


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("how", ["json", "form"])
def test_a_step_cache_is_chosen_per_request(world: World, api: str, how: str) -> None:
    use(world, msgspec.structs.replace(VIDEO, caches=("off", "safe", "fast")))
    assert send(world, api, how, cache="fast").status_code == 200
    assert drawn(world).cache == "fast"


def test_one_that_the_model_has_not_is_an_error_and_off_never_is(world: World) -> None:
    use(world, VIDEO)
    answer = send(world, "native", cache="fast")
    assert answer.status_code == 422
    assert 'cache: "fast" is not for model "demo", which has no step cache' in message(answer)
    assert send(world, "native", cache="quick").status_code == 422
    assert send(world, "native", cache="off").status_code == 200


@pytest.mark.parametrize("api", APIS)
def test_a_fixed_preset_without_a_shift_takes_none(world: World, api: str) -> None:
    use(world, msgspec.structs.replace(VIDEO, presets={"own": Sampler(steps=4, guidance=1.0, fixed=True)}))
    answer = send(world, api, preset="own", flow_shift=3)
    assert answer.status_code in (400, 422)
    reported = answer.text.replace('\\"', '"')
    assert "flow_shift: 3" in reported
    assert 'contradicts preset "own", in which it is the model\'s own; leave flow_shift out' in reported
