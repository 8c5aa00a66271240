"""One stage of training: steps, progress lines, checkpoints, and going on after a stop as if there had been none.

Each step draws all its chance from a generator seeded with the run's seed, the stage's name and the step's number. So a checkpoint holds
no random state, and a run that was cut makes the same weights as one that was not.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from scripts.demo_model import ranks

log = logging.getLogger(__name__)

_PROGRESS_EVERY_S = 15.0
_CHECKPOINT_EVERY_S = 120.0


class TrainingError(Exception):
    """One sentence on why training cannot go on."""


@dataclass
class Stage:
    """Modules and rules of one stage; `loss` gives (loss, figures to print) for a step and a generator of its own."""

    name: str
    steps: int
    modules: Mapping[str, nn.Module]
    optimisers: Sequence[torch.optim.Optimizer]
    loss: Callable[[int, torch.Generator], tuple[Tensor, Mapping[str, Tensor]]]
    #: Factor of the learning rates at a step.
    rate: Callable[[int], float]
    #: Largest norm of all gradients together; None leaves them alone.
    clip: float | None = None
    after_step: Callable[[int], None] = lambda step: None
    #: Pieces of a step's batch, each with a generator of its own; several processes share them out.
    parts: int = 1
    _base_rates: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._base_rates = [group["lr"] for optimiser in self.optimisers for group in optimiser.param_groups]


def level_rate(step: int, steps: int) -> float:
    """Factor of the learning rates: a rise, a level half, and down to nearly nothing."""
    return min(1.0, (step + 1) / 100, (1 - step / steps) / 0.5 + 0.01)


def generator_for(seed: int, *names: object) -> torch.Generator:
    """A CPU generator of its own for a place in training, the same in every run with this seed."""
    digest = hashlib.sha256(repr((seed, *names)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def train(stage: Stage, seed: int, checkpoint: Path) -> None:
    """Train the stage from its checkpoint, or its beginning, to its last step. Raises `TrainingError` when the loss is no number.

    Every process comes here, and leaves with the same weights. The first one writes progress and checkpoints; a stage with fewer parts
    than there are processes is its work alone.
    """
    alone = stage.parts < ranks.size()
    if not alone or ranks.rank() == 0:
        _train(stage, seed, checkpoint, range(stage.parts) if alone else range(ranks.rank(), stage.parts, ranks.size()))
    ranks.wait()
    if alone and ranks.rank() != 0:
        _restore(stage, checkpoint)


def _train(stage: Stage, seed: int, checkpoint: Path, parts: range) -> None:
    step, spent = _restore(stage, checkpoint)
    if step >= stage.steps:
        log.info("%s: done before, %d steps in %.0f s", stage.name, step, spent)
        return
    begun = told = saved = time.monotonic()
    first = step
    while step < stage.steps:
        loss, figures = _step(stage, step, seed, parts)
        step += 1
        if not math.isfinite(loss):
            raise TrainingError(f"{stage.name}: the loss is {loss} at step {step}; its last checkpoint is sound")
        if ranks.rank() != 0:
            continue
        now = time.monotonic()
        if now - told >= _PROGRESS_EVERY_S or step == stage.steps:
            told = now
            _progress(stage, step, loss, figures, (now - begun) / (step - first))
        if now - saved >= _CHECKPOINT_EVERY_S or step == stage.steps:
            saved = now
            _save(stage, checkpoint, step, spent + now - begun)


def seconds_spent(checkpoint: Path) -> float:
    """How long a stage has trained so far, over all its runs; 0 when it has not."""
    return float(torch.load(checkpoint, weights_only=True)["spent_s"]) if checkpoint.exists() else 0.0


def _step(stage: Stage, step: int, seed: int, parts: range) -> tuple[float, Mapping[str, Tensor]]:
    """One step of the optimisers on this process's parts and those of the others; (loss, figures)."""
    groups = [group for optimiser in stage.optimisers for group in optimiser.param_groups]
    parameters = [parameter for group in groups for parameter in group["params"]]
    for group, base in zip(groups, stage._base_rates, strict=True):
        group["lr"] = base * stage.rate(step)
    total = torch.zeros(())
    figures: Mapping[str, Tensor] = {}
    for part in parts:
        loss, figures = stage.loss(step, generator_for(seed, stage.name, step, *([part] if part else [])))
        loss = loss / stage.parts
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.detach().cpu()
    if len(parts) < stage.parts:
        ranks.add_up([total, *(parameter.grad for parameter in parameters if parameter.grad is not None)])
    if stage.clip is not None:
        nn.utils.clip_grad_norm_(parameters, stage.clip)
    for optimiser in stage.optimisers:
        optimiser.step()
        optimiser.zero_grad()
    stage.after_step(step)
    return float(total), figures


def _progress(stage: Stage, step: int, loss: float, figures: Mapping[str, Tensor], pace_s: float) -> None:
    told = "".join(f", {name} {float(figure):.2f}" for name, figure in figures.items())
    log.info(
        "%s: step %d of %d, loss %.4f%s, %.2f s a step, %.1f min left",
        stage.name, step, stage.steps, loss, told, pace_s, (stage.steps - step) * pace_s / 60,
    )  # fmt: skip


def _save(stage: Stage, checkpoint: Path, step: int, spent_s: float) -> None:
    """Write the checkpoint so that a stop at any moment leaves the old one or the new one."""
    state = {
        "step": step,
        "spent_s": spent_s,
        "modules": {name: module.state_dict() for name, module in stage.modules.items()},
        "optimisers": [optimiser.state_dict() for optimiser in stage.optimisers],
    }
    part = checkpoint.with_suffix(".part")
    torch.save(state, part)
    os.replace(part, checkpoint)


def _restore(stage: Stage, checkpoint: Path) -> tuple[int, float]:
    """(steps done, seconds spent) of the checkpoint, with its weights in place; (0, 0) when there is none."""
    if not checkpoint.exists():
        return 0, 0.0
    state = torch.load(checkpoint, weights_only=True, map_location="cpu")
    for name, module in stage.modules.items():
        module.load_state_dict(state["modules"][name])
    for optimiser, saved in zip(stage.optimisers, state["optimisers"], strict=True):
        optimiser.load_state_dict(saved)
    return state["step"], state["spent_s"]
