"""Models: listed with what clients of several servers read, found by names with slashes, by further names, and not at all."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from tests.edge.conftest import World
from tests.testing.fake_broker import VIDEO, worker


def test_models_are_listed_once_with_what_they_take(world: World) -> None:
    body = world.http.get("/v1/models").json()
    assert [card["id"] for card in body["data"]] == ["demo", "animate", "org/picture"]
    assert {card["object"] for card in body["data"]} == {"model"}
    demo, animate, picture = body["data"]
    assert demo["limits"]["max_frames"] == 81
    assert (demo["task_type"], animate["supported_task_types"], picture["task_type"]) == ("T2V", ["I2V"], "T2I")
    assert (demo["owned_by"], demo["root"], demo["num_gpus"], demo["dit_precision"]) == ("zoetrope", "demo", 0, "fp32")
    assert demo["created"] > 1_700_000_000
    assert world.http.get("/models").json() == body


def test_a_gpu_model_says_so_and_that_it_also_makes_images(world: World) -> None:
    card = msgspec.structs.replace(VIDEO, pipeline="WanPipeline", also_image=True, vae_dtype="float32")
    world.fake.workers = {"gpu-0": msgspec.structs.replace(worker("gpu-0", card), device="NVIDIA H100", gpus=2)}
    demo = world.http.get("/v1/models").json()["data"][0]
    assert (demo["num_gpus"], demo["dit_precision"], demo["vae_precision"]) == (2, "bf16", "fp32")
    assert (demo["outputs"], demo["supported_task_types"]) == (["video", "image"], ["T2V", "T2I"])


def test_it_shows_how_the_operator_has_set_it_up(world: World) -> None:
    setup = {"attention": "native", "quantize": "text_encoder int8", "placement": "group"}
    world.fake.workers = {"cpu-0": worker("cpu-0", msgspec.structs.replace(VIDEO, setup=setup))}
    assert world.http.get("/v1/models").json()["data"][0]["setup"] == setup


@pytest.mark.parametrize("path", ["/v1/models/org/picture", "/v1/models/org%2Fpicture"])
def test_a_name_may_hold_a_slash(world: World, path: str) -> None:
    card = world.http.get(path).json()
    assert (card["id"], card["output"]) == ("org/picture", "image")


def test_an_unknown_one_is_404(world: World) -> None:
    answer = world.http.get("/v1/models/nothing/here")
    body = answer.json()
    assert answer.status_code == 404
    assert (body["error"]["code"], body["error"]["param"]) == ("model_not_found", "model")
    assert "nothing/here" in body["error"]["message"] == body["detail"]


def test_further_names_are_entries_of_their_own(open_edge: Callable[..., World]) -> None:
    world = open_edge(model_aliases=("sora-2=demo", "gone=nowhere"))
    names = [card["id"] for card in world.http.get("/v1/models").json()["data"]]
    assert names == ["demo", "animate", "org/picture", "sora-2"]
    sora = world.http.get("/v1/models/sora-2").json()
    assert (sora["id"], sora["root"]) == ("sora-2", "demo")
    assert world.http.get("/v1/models/demo").json()["aliases"] == ["sora-2"]
    assert world.http.get("/v1/models/gone").status_code == 404


def test_a_further_name_works_in_every_api(open_edge: Callable[..., World]) -> None:
    world = open_edge(model_aliases=("sora-2=demo",))
    assert world.submit(model="sora-2")["model"] == "demo"


def test_sglangs_clients_ask_for_the_model(world: World) -> None:
    assert world.http.get("/v1/model_info").json()["model_path"] == "demo"
    assert world.http.get("/model_info").json()["model_path"] == "demo"


@pytest.mark.parametrize("path", ["/v1/models/a/b/predictions", "/v1/models/a/b", "/v1/file/download/a/b"])
def test_below_an_id_with_slashes_another_method_finds_no_path(world: World, path: str) -> None:
    answer = world.http.post(path)
    assert (answer.status_code, path in answer.json()["detail"]) == (404, True)


def test_a_model_takes_no_other_method(world: World) -> None:
    assert (world.http.post("/v1/models/demo").status_code, world.http.put("/v1/models/demo").status_code) == (405, 405)
