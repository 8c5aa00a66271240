"""The sound in what a pipeline gives: LTX-2, Kandinsky 6 and Cosmos 3 make it together with the frames."""

from __future__ import annotations

from typing import Any

import numpy as np

from broker.wire.jobspec import MediaKind
from workers.engine.errors import EngineError
from workers.engine.frames import require_finite
from workers.engine.progress import Monitor
from workers.engine.soundtrack import Sound

#: Where pipelines keep the sound in their output.
_FIELDS = ("audio", "sound")

#: Where the rate of what comes out stands: (component, key of its config), the first that is there. What LTX-2's vocoder reads, and its
#: audio VAE makes, has another rate than what comes out of it.
_RATES = (
    ("vocoder", "output_sampling_rate"),
    ("sound_tokenizer", "sampling_rate"),
    ("audio_vae", "sample_rate"),
)


def sound_for(pipe: Any, output: Any, media: MediaKind, monitor: Monitor) -> Sound | None:
    """The sound for a file of the kind `media`; None when the pipeline made none, or the file can hold none, which is a warning.

    Raises `EngineError` for sound that is no sound.
    """
    made = next((found for field in _FIELDS if (found := getattr(output, field, None)) is not None), None)
    if made is None:
        return None
    if media == "image":
        monitor.warn("sound: the model made some, and a picture holds none; it was left out")
        return None
    rate = _rate(pipe)
    if rate is None:
        monitor.warn("sound: the model made some, and does not say at which rate; it was left out")
        return None
    return Sound(_samples(made), rate)


def _samples(made: Any) -> Any:
    """batch x channels x samples, channels x samples or samples alone -> channels x samples; a batch of one clip reads as one channel."""
    values = made.detach().float().cpu().numpy() if hasattr(made, "detach") else np.asarray(made, np.float32)
    require_finite(values, "the sound")
    samples = values[0] if values.ndim == 3 and len(values) else values
    samples = samples[np.newaxis] if samples.ndim == 1 else samples
    if samples.ndim != 2 or samples.shape[0] not in (1, 2):
        raise EngineError(f"the pipeline gave sound of shape {values.shape}, which is not that of one or two channels")
    return samples.clip(-1.0, 1.0)


def _rate(pipe: Any) -> int | None:
    for component, key in _RATES:
        rate = getattr(getattr(getattr(pipe, component, None), "config", None), key, None)
        if isinstance(rate, int) and rate > 0:
            return rate
    return None
