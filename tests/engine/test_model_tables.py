"""What a table may say of a model: its reader, and how what it says reaches the engine."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from workers.ipc.messages import Setup
from workers.models.catalogue import model_for
from workers.models.model import ModelSetup
from workers.models.sources import CatalogueError
from workers.models.speed import Speed
from workers.models.table import merged, read


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"lora": {}}, "lora: unknown key; did you mean loras? known: also_image, config,"),
        ({"speed": {"atention": "sage"}}, "speed.atention: unknown key; did you mean attention? known: attention, "),
        ({"speed": "fast"}, "speed: must be a table, and is a string"),
        ({"speed": {"quantize": {"transformer": 8}}}, "speed.quantize[...]: must be a string, and is a whole number"),
        ({"loras": {"x": {"file": "a", "scales": 1}}}, "loras.x.scales: unknown key; did you mean scale? known: "),
        ({"loras": {"x": {"scale": "much"}}}, "loras[...].scale: must be a number, and is a string"),
        ({"sampler": {"shift": "five"}}, "sampler.shift: must be a number, and is a string"),
        ({"also_image": 1}, "also_image: must be true or false, and is a whole number"),
    ],
)
def test_a_wrong_key_or_value_is_named_with_its_place(table: dict[str, Any], message: str) -> None:
    with pytest.raises(CatalogueError) as caught:
        read("[models.m]", table)

    assert str(caught.value).startswith(f"[models.m] {message}")


def test_a_service_s_table_stands_before_the_model_s_own_key_by_key() -> None:
    own = {"pipeline": "WanPipeline", "defaults": {"fps": 8.0, "width": 64}, "output": "video"}
    given = {"output": "image", "defaults": {"width": 128}}

    assert merged(own, given) == {
        "pipeline": "WanPipeline", "output": "image", "defaults": {"fps": 8.0, "width": 128},
    }  # fmt: skip


def test_a_setup_reaches_the_engine_whole() -> None:
    setup = ModelSetup(variant="fp16", speed=Speed(quantize={"transformer": "fp8"}))
    sent = Setup(models=(model_for("fake").card,), preload="fake", device="cpu", setups={"fake": setup})

    received = msgspec.msgpack.decode(msgspec.msgpack.encode(sent), type=Setup)

    assert received.setups == {"fake": setup}


def test_the_tables_in_the_documents_can_be_read() -> None:
    documents = Path(__file__).parents[2] / "docs"
    blocks = [
        block
        for name in ("models.md", "configuration.md")
        for block in re.findall(r"```toml\n(.*?)```", (documents / name).read_text(encoding="utf-8"), re.DOTALL)
    ]
    tables = [table for block in blocks for table in tomllib.loads(block).get("models", {}).values()]
    assert len(tables) >= 3
    for table in tables:
        read("[models.documented]", table)
