"""Which optional packages an engine does without, and that its libraries then do so too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec import structs

from workers.models.catalogue import card_for, default_model
from workers.models.model import ModelSetup
from workers.models.optional_packages import left_out
from workers.models.speed import Speed

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("quantize", "stored", "expected"),
    [
        ({}, "", ("bitsandbytes", "torchao")),
        ({"transformer": "fp8"}, "", ("bitsandbytes",)),
        ({"text_encoder": "nf4"}, "", ("torchao",)),
        ({"transformer": "layerwise_fp8"}, "", ("bitsandbytes", "torchao")),
        ({}, "bitsandbytes_4bit", ("torchao",)),
        ({"transformer": "int8"}, "bitsandbytes", ()),
    ],
)
def test_quantisers_that_no_model_needs_are_left_out(tmp_path, quantize, stored, expected):
    (tmp_path / "transformer").mkdir()
    config = {"quantization_config": {"quant_method": stored}} if stored else {}
    (tmp_path / "transformer" / "config.json").write_text(json.dumps(config))
    card = structs.replace(card_for(str(default_model()), "m"), source=str(tmp_path))
    assert left_out([card], {"m": ModelSetup(speed=Speed(quantize=quantize))}) == expected


def test_a_damaged_config_keeps_no_agent_from_starting(tmp_path):
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "config.json").write_text("{")
    card = structs.replace(card_for(str(default_model()), "m"), source=str(tmp_path))
    assert left_out([card], {}) == ("bitsandbytes", "torchao")


def test_what_is_left_out_is_not_imported_by_the_libraries():
    code = (
        "from workers.engine.packages import leave_out; leave_out(['bitsandbytes', 'torchao'])\n"
        "import workers.engine.video, diffusers, sys; diffusers.WanPipeline\n"
        "print([name for name in ('bitsandbytes', 'torchao') if sys.modules.get(name)])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=os.environ, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
