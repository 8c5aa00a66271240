"""The sound of a clip as an AAC stream beside its pictures, exactly as long as they are. No torch here."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import av.container
import numpy as np
import numpy.typing as npt
from msgspec import Struct

#: Rates that AAC has. Sound at any other is resampled to the usual one of video.
_AAC_RATES = (7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
_USUAL_RATE = 48_000
_BIT_RATE = 192_000

#: Samples encoded at once at most: a picture may stand for minutes.
_PIECE = 1 << 16


class Sound(Struct, frozen=True):
    """Sound as a model made it."""

    #: 1 or 2 channels x samples, float32, in -1..1.
    samples: npt.NDArray[np.float32]
    #: Samples per second of each channel.
    rate: int


class Soundtrack:
    """Encodes one sound for one open container, in which no packet has been written yet."""

    def __init__(self, container: av.container.OutputContainer, sound: Sound) -> None:
        self._sound = sound
        # Two channels play everywhere; a single one is in both.
        self._samples = np.broadcast_to(sound.samples, (2, sound.samples.shape[-1]))
        rate = sound.rate if sound.rate in _AAC_RATES else _USUAL_RATE
        self._stream: Any = container.add_stream("aac", rate=rate, layout="stereo", bit_rate=_BIT_RATE)
        self._done = 0

    def until(self, seconds: Fraction) -> Iterator[av.Packet[Any]]:
        """Packets of what sounds before `seconds`; silence where the sound is shorter."""
        end = round(seconds * self._sound.rate)
        while self._done < end:
            until = min(end, self._done + _PIECE)
            piece = self._samples[:, self._done : until]
            missing = until - self._done - piece.shape[1]
            frame = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(np.pad(piece, ((0, 0), (0, missing)))), format="fltp", layout="stereo"
            )
            frame.sample_rate = self._sound.rate
            frame.time_base = Fraction(1, self._sound.rate)
            frame.pts = self._done
            self._done = until
            yield from self._stream.encode(frame)

    def rest(self) -> Iterator[av.Packet[Any]]:
        """Flush the encoder; to be called once, at the end."""
        yield from self._stream.encode(None)
