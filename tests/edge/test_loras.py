"""LoRAs in a request: named in every API in the ways that clients of other servers know; never a path, never one that is not there."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import msgspec
import pytest

from broker.wire.jobspec import decode_spec
from broker.wire.loras import LoraCard, LoraUse
from broker.wire.sampling import Sampler
from http_edge.auth.keys import KeyRecord, hash_of, new_key, write_keys
from tests.edge.api_families import APIS, drawn, send, use
from tests.edge.conftest import World
from tests.testing.fake_broker import VIDEO

FAST = Sampler(kind="euler", sigmas=(1.0, 0.5), guidance=1.0, fixed=True)
SLOW = Sampler(kind="euler", steps=30)
BOTH = ("transformer", "transformer_2")
CARD = msgspec.structs.replace(
    VIDEO,
    presets={"fast": FAST, "slow": SLOW},
    loras={
        "style": LoraCard(scale=0.7, trigger="in style", components=("transformer",)),
        "pair": LoraCard(components=BOTH),
        "quick": LoraCard(preset="fast", components=BOTH),
        "late": LoraCard(preset="slow", components=BOTH),
    },
)


@pytest.fixture
def styled(world: World) -> World:
    use(world, CARD)
    return world


def one(name: str, scale: float = 1.0, **components: float) -> tuple[LoraUse, ...]:
    return (LoraUse(name=name, scale=scale, components=components),)


ALIKE: list[tuple[dict[str, Any], tuple[LoraUse, ...]]] = [
    ({"loras": [{"name": "style", "scale": 0.5}]}, one("style", 0.5)),
    ({"loras": [{"name": "style"}]}, one("style", 0.7)),
    ({"loras": "style"}, one("style", 0.7)),
    ({"loras": ["style", {"name": "pair", "scale": "2"}]}, (*one("style", 0.7), *one("pair", 2.0))),
    ({"loras": [{"name": "pair", "scale": {"transformer_2": 0.25}}]}, one("pair", 1.0, transformer_2=0.25)),
    # vLLM-Omni's, whose path may be left empty.
    ({"lora": {"name": "style", "path": "", "scale": 0.5, "int_id": 7}}, one("style", 0.5)),
    # LightX2V's.
    ({"lora": {"lora_name": "style", "lora_path": "style", "lora_scale": 0.5, "lora_int_id": 7}}, one("style", 0.5)),
    ({"lora_name": "style", "lora_strength": 0.25}, one("style", 0.25)),
    ({"lora_name": "style"}, one("style", 0.7)),
    # SGLang's, where its path is a name.
    ({"lora_path": "style", "lora_scale": 0.25}, one("style", 0.25)),
    ({"lora_paths": ["style"], "lora_names": None}, one("style", 0.7)),
    ({"lora_strength": 1.0}, ()),
    ({"loras": []}, ()),
    ({"loras": None, "lora": [], "lora_name": ""}, ()),
]


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize(("sent", "loras"), ALIKE)
def test_every_way_to_name_one(styled: World, api: str, sent: dict[str, Any], loras: tuple[LoraUse, ...]) -> None:
    answer = send(styled, api, **sent)
    assert answer.status_code == 200, answer.text
    assert drawn(styled).loras == loras
    assert drawn(styled).warnings == ()


@pytest.mark.parametrize("api", APIS)
def test_forms_carry_them_as_json_text(styled: World, api: str) -> None:
    answer = send(styled, api, "form", loras=json.dumps([{"name": "style", "scale": 0.5}, {"name": "pair"}]))
    assert answer.status_code == 200, answer.text
    assert drawn(styled).loras == (*one("style", 0.5), *one("pair"))


def test_forms_carry_them_in_brackets(styled: World) -> None:
    answer = send(styled, "openai", "form", **{"lora[name]": "style", "lora[scale]": "0.5"})
    assert answer.status_code == 200, answer.text
    assert drawn(styled).loras == one("style", 0.5)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"loras": "stile"}, "is not a LoRA of model .demo.; did you mean .style.. known: style, pair, quick, late"),
    ({"loras": [{"name": "style"}, {"name": "style", "scale": 2}]}, "is named twice"),
    ({"loras": [{"name": f"n{number}"} for number in range(9)]}, "too many LoRAs, at most 8"),
    ({"loras": [{"name": "style", "scale": "nan"}]}, "loras.scale: .nan. is not a number"),
    ({"loras": [{"name": "style", "scale": 11}]}, "loras.scale: 11 must be -10 to 10"),
    ({"loras": [{"name": "style", "scale": True}]}, "is not a number"),
    (
        {"loras": [{"name": "style", "scale": {"transformer_2": 1}}]},
        "no component that LoRA .style. changes; those are transformer",
    ),
    ({"loras": [{"name": "style", "scale": {"transformer": "inf"}}]}, "is not a number"),
    ({"loras": [{"scale": 1}]}, "loras.name"),
    ({"loras": [{"name": "style", "rank": 3}]}, "loras.rank: 3 is not known"),
    ({"loras": [7]}, "is neither a LoRA's name"),
    (
        {"lora": {"name": "style", "path": "/models/x.safetensors"}},
        "lora.path: ./models/x.safetensors. is a path; a LoRA is chosen by a name",
    ),
    ({"lora_name": "../secret"}, "lora_name: .* is not a LoRA"),
    ({"lora": "{'name'"}, "lora"),
    ({"loras": [None]}, "is neither a LoRA's name nor"),
    ({"loras": [{}]}, "must be a text of 1 to"),
    ({"lora_name": {}}, "lora_name.name: null must be a text of 1 to"),
    ({"lora": "{}"}, "lora.name: null must be a text of 1 to"),
    ({"loras": ["quick", "late"]}, "name one in preset"),
]


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize(("sent", "rule"), BAD)
def test_what_cannot_be_is_an_error_in_every_api(styled: World, api: str, sent: dict[str, Any], rule: str) -> None:
    answer = send(styled, api, **sent)
    assert answer.status_code in (400, 422), answer.text
    reported = answer.text.replace('\\"', '"')
    assert re.search(rule, reported), reported
    assert styled.fake.jobs == {}


@pytest.mark.parametrize("api", APIS)
def test_a_model_without_any_says_so(world: World, api: str) -> None:
    answer = send(world, api, loras="style")
    assert answer.status_code in (400, 422)
    assert "has no LoRAs" in answer.text


def test_one_brings_its_preset_unless_the_request_names_another(styled: World) -> None:
    assert send(styled, "native", loras="quick").status_code == 200
    assert (drawn(styled).preset, drawn(styled).num_inference_steps) == ("fast", 2)
    assert send(styled, "native", loras=[{"name": "quick", "scale": 0}]).status_code == 200
    assert (drawn(styled).preset, drawn(styled).loras) == ("", ())
    assert send(styled, "native", loras=["quick", "late"], preset="slow").status_code == 200
    assert (drawn(styled).preset, drawn(styled).num_inference_steps) == ("slow", 30)


def test_models_and_jobs_show_them_and_no_paths(styled: World) -> None:
    (model,) = styled.http.get("/v1/models").json()["data"]
    assert model["loras"]["style"] == {"scale": 0.7, "trigger": "in style", "components": ["transformer"], "preset": ""}
    job = send(styled, "native", loras=[{"name": "pair", "scale": {"transformer": 0.5}}]).json()
    shown = styled.http.get(f"/v1/jobs/{job['id']}").json()["spec"]["loras"]
    assert shown == [{"name": "pair", "scale": 1.0, "components": {"transformer": 0.5}}]


@pytest.mark.parametrize(("allowed", "status"), [(None, 200), (("style", "pair"), 200), (("pair",), 403), ((), 403)])
def test_a_key_may_be_limited_to_some(
    open_edge: Callable[..., World], tmp_path: Path, allowed: tuple[str, ...] | None, status: int
) -> None:
    key = new_key()
    write_keys(tmp_path / "keys", [KeyRecord(name="red", hash=hash_of(key), tenant="red", loras=allowed)])
    world = open_edge(keys_file=str(tmp_path / "keys"))
    use(world, CARD)
    headers = {"Authorization": f"Bearer {key}"}
    assert world.http.post("/v1/jobs", json={"prompt": "a"}, headers=headers).status_code == 200
    answer = world.http.post("/v1/jobs", json={"prompt": "a", "loras": "style"}, headers=headers)
    assert answer.status_code == status
    if status == 403:
        assert 'this key may not draw with LoRA "style"' in answer.json()["detail"]


def test_a_remix_is_drawn_with_the_loras_the_preset_and_the_cache_of_its_source(styled: World) -> None:
    use(styled, msgspec.structs.replace(CARD, caches=("safe", "fast")))
    loras = [{"name": "quick"}, {"name": "pair", "scale": {"transformer_2": 0.25}}]
    source = styled.http.post("/v1/videos", json={"prompt": "p", "loras": loras, "cache": "fast"}).json()["id"]
    styled.do(styled.fake.run, source)
    styled.do(styled.fake.succeed, source)
    remixed = styled.http.post(f"/v1/videos/{source}/remix", json={"prompt": "q"}).json()["id"]
    specs = [decode_spec(styled.fake.jobs[job_id].body) for job_id in (source, remixed)]
    first, second = ((spec.loras, spec.preset, spec.cache, spec.num_inference_steps) for spec in specs)
    assert first == second
    assert first[:3] == ((*one("quick"), *one("pair", transformer_2=0.25)), "fast", "fast")


@pytest.mark.parametrize("api", APIS)
def test_a_path_is_answered_with_the_names(styled: World, api: str) -> None:
    answer = send(styled, api, lora_path="/models/style.safetensors")
    assert answer.status_code in (400, 422)
    text = answer.text.replace('\\"', '"')
    assert 'lora_path: "/models/style.safetensors" is not a LoRA of model' in text
    assert "known: style, pair, quick, late" in text


@pytest.mark.parametrize("marks", [("0", "1"), ("", ""), ("1", "7")])
def test_a_form_may_number_them(styled: World, marks: tuple[str, str]) -> None:
    first, second = marks
    pairs = [
        (f"loras[{first}][name]", "style"),
        (f"loras[{first}][scale]", "0.5"),
        (f"loras[{second}][name]", "pair"),
    ]
    body = urlencode([("prompt", "a"), *pairs])
    answer = styled.http.post("/v1/jobs", content=body, headers={"content-type": "application/x-www-form-urlencoded"})
    assert answer.status_code == 200, answer.text
    assert drawn(styled).loras == (*one("style", 0.5), *one("pair"))


def test_a_name_in_the_prompt_is_told_to_be_words(styled: World) -> None:
    assert send(styled, "native", prompt="a cat <lora:style:0.5>").status_code == 200
    (warning,) = drawn(styled).warnings
    assert warning == 'prompt: "<lora:style:0.5>" is read as words; a LoRA is named in loras'
