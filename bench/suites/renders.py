"""`kill -9` of the process that draws, many times: the cost with checkpoints.

What is measured runs in a child (`scripts/engine_killed.py`), which is the worker's engine without its service: it loads the model once and
draws each picture in a fork of itself, so that a kill costs a fork, not the imports of torch. Forks are killed at random moments, and drawn
on by another one from the checkpoints that lie there. The same fork draws with and without checkpoints in turn for the price.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import msgspec
from msgspec import Struct

from bench.harness.process import run_child
from bench.report.errors import BenchError
from bench.report.report import Metric
from bench.report.stats import percentile


class Order(Struct, frozen=True, kw_only=True):
    """What the child is to draw: `renders` pictures that are killed, `pairs` of long ones for the price of checkpoints."""

    model: str
    renders: int
    at_once: int
    steps: int
    side: int
    checkpoint_s: float
    seeds: int
    seed: int
    pairs: int
    pair_steps: int
    pair_side: int
    pair_checkpoint_s: float


class Kill(Struct, frozen=True, kw_only=True):
    """A fork that was killed: the steps that were done then, and after which the next fork went on (0: anew).

    Seconds of what is done again, from the end of the step that is gone on from: `denoise_s` of steps, the last of them begun but not done,
    `decode_s` of decoding, which no checkpoint holds.
    """

    step: int
    resumed: int
    denoise_s: float
    decode_s: float = 0.0
    #: A checkpoint had fallen due with a step and was not there when that of two steps later was done: the disk kept it waiting.
    overdue: bool = False


class Render(Struct, frozen=True, kw_only=True):
    """A picture whose process was killed. `same`: its pixels are those of the undisturbed one. `error`: why it did not end well."""

    kills: list[Kill]
    same: bool
    error: str = ""


class Pair(Struct, frozen=True, kw_only=True):
    """The same picture with checkpoints and without: processor seconds of its denoising, and what the checkpoints were."""

    with_s: float
    without_s: float
    step_s: float
    checkpoints: int
    bytes: int
    #: Milliseconds for which the drawing stands still for one: its copy.
    copy_ms: float
    #: Milliseconds, and those of the processor, in which one is written beside the next step.
    write_ms: float
    write_cpu_ms: float


class Drawn(Struct, frozen=True, kw_only=True):
    """All that the child found."""

    renders: list[Render]
    pairs: list[Pair]


def run(order: Order) -> Drawn:
    """Draw and kill. Raises `BenchError`."""
    answer = run_child("scripts.engine_killed", order)
    if answer is None:
        raise BenchError("the engine whose forks are killed has failed; why is said above")
    return msgspec.json.decode(answer, type=Drawn)


def kill_of(times: Sequence[float], at: float, resumed: int, checkpoint_s: float) -> Kill:
    """What a kill at `at` costs. `times`: when each step of that fork was shown, by its number, the beginning of its loop at 0; 0: it was
    not. `resumed`: the step after which the next fork goes on."""
    shown = [number for number, shown_at in enumerate(times) if shown_at]
    if not shown:
        return Kill(step=0, resumed=resumed, denoise_s=0.0)
    step, last = shown[-1], len(times) - 1
    # Not shown: it was on disk a moment before, or another fork had taken it, so that all that this one did is done again.
    since = times[resumed] or (at if resumed > step > 0 else times[0])
    decoding_since = times[last] or at
    due = [number for number in shown if number > resumed and times[number] - since >= checkpoint_s]
    return Kill(
        step=step,
        resumed=resumed,
        denoise_s=max(0.0, min(at, decoding_since) - since),
        decode_s=max(0.0, at - decoding_since),
        overdue=bool(due) and step >= due[0] + 2,
    )


def metrics_of(drawn: Drawn, order: Order) -> list[Metric]:
    """What became of the renders, and the price."""
    return [
        *(_killed(drawn.renders, order) if drawn.renders else []),
        *(_priced(drawn.pairs, order) if drawn.pairs else []),
    ]


def _killed(renders: Sequence[Render], order: Order) -> list[Metric]:
    kills = [kill for render in renders for kill in render.kills]
    lost, decoded = sorted(kill.denoise_s for kill in kills), [kill.decode_s for kill in kills if kill.decode_s]
    repeated = sum(max(0, kill.step - kill.resumed) for kill in kills)
    each = f"a checkpoint each {order.checkpoint_s * 1e3:g} ms"
    return [
        Metric("renders", "pictures whose drawing process was killed", len(renders), "", f"{len(kills)} kills"),
        Metric("renders_not_final", "of these, without an end", sum(bool(one.error) for one in renders), "", "bar: 0"),
        Metric("renders_different", "of these, other pixels", sum(not one.same for one in renders), "", "bar: 0"),
        Metric("renders_resumed", "kills after which it went on", sum(kill.resumed > 0 for kill in kills)),
        Metric("renders_steps", "steps that were done before the kills", sum(kill.step for kill in kills)),
        Metric("renders_repeated", "of these, taken twice", repeated, "", "without checkpoints: all"),
        Metric("lost_p50_ms", "denoising done twice at a kill, p50", median(lost) * 1e3, "ms", each),
        Metric("lost_p95_ms", "denoising done twice at a kill, p95", percentile(lost, 0.95) * 1e3, "ms"),
        Metric("lost_max_ms", "denoising done twice at a kill, longest", lost[-1] * 1e3, "ms"),
        Metric(
            "over_interval",
            "kills that cost more denoising than an interval",
            sum(one > order.checkpoint_s for one in lost),
            "",
            "the step in which a checkpoint falls due, and what is done while it is written, counted",
        ),
        Metric(
            "overdue",
            "of these, whose checkpoint was not there two steps after it fell due",
            sum(kill.overdue for kill in kills),
            "",
            "it waited for the disk; bar: 0",
        ),
        Metric("decodes", "kills in the decoding", len(decoded), "", "which is begun again"),
        Metric("decode_max_ms", "decoding done twice, longest", max(decoded, default=0.0) * 1e3, "ms"),
    ]  # fmt: skip


def _priced(pairs: Sequence[Pair], order: Order) -> list[Metric]:
    ratios = sorted(pair.with_s / pair.without_s for pair in pairs)
    spread = f"{ratios[0]:.4f} to {ratios[-1]:.4f}, {len(ratios)} pairs"
    compared = [
        Metric("cpu_ratio", "processor time with over without, median of pairs", median(ratios), "x", spread),
        Metric("pair_step_s", "a step of these", pairs[-1].step_s, "s", f"{order.pair_side} x {order.pair_side}"),
    ]
    pairs = [pair for pair in pairs if pair.checkpoints]
    if not pairs:  # too short for one to fall due
        return compared
    copy_ms, write_ms = median(pair.copy_ms for pair in pairs), median(pair.write_ms for pair in pairs)
    cpu_ms = median(pair.write_cpu_ms for pair in pairs)
    # No two are closer than half of the time between them.
    least_s = order.pair_checkpoint_s / 2
    percent = (copy_ms + cpu_ms) / (least_s * 1e3) * 100
    size, bar = f"{pairs[-1].bytes:,} bytes", f"at most one each {least_s:g} s; bar: 1 %"
    return [
        Metric("copy_ms", "drawing stands still for a checkpoint", copy_ms, "ms"),
        Metric("write_ms", "a checkpoint is written, beside the next step", write_ms, "ms", size),
        Metric("write_cpu_ms", "of the processor", cpu_ms, "ms"),
        Metric("price_pct", "processor time of checkpoints, counted", percent, "%", bar),
        *compared,
    ]


def warnings_of(renders: Sequence[Render]) -> list[str]:
    """The first reasons why renders did not end well."""
    return sorted({one.error for one in renders if one.error})[:3]
