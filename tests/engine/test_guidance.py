"""A job's own scale of guidance in pipelines that keep it in a component."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from diffusers import AdaptiveProjectedMixGuidance, ClassifierFreeGuidance

from broker.wire.jobspec import ModelCard
from tests.engine.conftest import spec_for
from workers.engine.guidance import guided


@pytest.mark.parametrize("kind", [ClassifierFreeGuidance, AdaptiveProjectedMixGuidance])
def test_the_guider_has_the_jobs_scale_while_it_is_drawn(kind: type, demo_card: ModelCard) -> None:
    own = kind(guidance_scale=7.0)
    pipe = SimpleNamespace(guider=own, ocr_guider=None)

    with guided(pipe, spec_for(demo_card, guidance_scale=2.5)):
        assert pipe.guider.guidance_scale == 2.5
        assert type(pipe.guider) is kind
    assert pipe.guider is own
    assert own.guidance_scale == 7.0


def test_without_a_scale_the_models_own_counts(demo_card: ModelCard) -> None:
    own = ClassifierFreeGuidance(guidance_scale=7.0)
    pipe = SimpleNamespace(guider=own)

    with guided(pipe, spec_for(demo_card, guidance_scale=None)):
        assert pipe.guider is own
