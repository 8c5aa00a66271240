"""Building an engine's setup from a model's table; each feature's rule is its own module's."""

from __future__ import annotations

from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

from workers.models.loras import check_loras
from workers.models.model import ModelSetup
from workers.models.parallel import parallel_for
from workers.models.parts import check_parts, components
from workers.models.pipeline_classes import PipelineClass
from workers.models.placement import AUTO
from workers.models.quantise import check_quantize
from workers.models.sources import CatalogueError, shown
from workers.models.speed import Speed, backend_of, check_speed
from workers.models.table import ModelTable
from workers.models.video_file import VideoFile, summary
from workers.models.weights import pickled, variants


def setup_for(
    where: str,
    settings: ModelTable,
    taken: PipelineClass,
    index: Mapping[str, Any],
    directory: Path | None,
    configs: Path | None,
) -> ModelSetup:
    """Build the engine's setup of a model with this index in this directory; `configs` is that of a single file's.

    Raises `CatalogueError` for what it could not carry out.
    """
    if configs is not None:
        for key in ("variant", "trust_remote_code"):
            if getattr(settings, key):
                text = f"{shown(getattr(settings, key))} is for a directory, and path is one file; leave the key out"
                raise CatalogueError(where, key, text)
    parts = check_parts(where, settings.parts, index, directory)
    loras = check_loras(where, settings.loras, settings.lora_dir, taken, index, directory, parts)
    check_quantize(where, settings.speed.quantize, index, directory, parts)
    if directory is not None:
        _check_weights(where, settings, directory, parts)
        _check_code(where, settings, directory, index)
    return ModelSetup(
        where=where,
        parts=parts,
        variant=settings.variant,
        config=str(configs or ""),
        trust_remote_code=settings.trust_remote_code,
        loras=loras,
        speed=check_speed(where, settings.speed, taken, index),
        placement=settings.placement or AUTO,
        parallel=parallel_for(settings.parallel or "auto", taken.name, index, directory or configs, settings.speed),
    )


def as_texts(setup: ModelSetup) -> dict[str, str]:
    """Describe what is not as usual, key of the table -> words, without paths: for clients (`ModelCard.setup`) and in `Result.used`."""
    speed = setup.speed
    texts = {
        "parts": ", ".join(f"{name} {Path(file).name}" for name, file in sorted(setup.parts.items())),
        "variant": setup.variant,
        "quantize": ", ".join(f"{name} {method}" for name, method in sorted(speed.quantize.items())),
        "attention": speed.attention,
        "compile": backend_of(speed),
        "warm_up": ", ".join("x".join(map(str, size)) for size in setup.warm_up),
        "cache_kind": speed.cache_kind if speed.cache_kind != Speed().cache_kind else "",
        "vae_dtype": speed.vae_dtype if speed.vae_dtype != "auto" else "",
        "placement": setup.placement if setup.placement != AUTO else "",
        "parallel": setup.parallel.setting if setup.parallel.setting != "auto" else "",
        "video_file": summary(setup.video_file) if setup.video_file != VideoFile() else "",
    }
    return {key: text for key, text in texts.items() if text}


def _check_weights(where: str, settings: ModelTable, directory: Path, parts: Container[str]) -> None:
    if file := pickled(directory, parts):
        cure = "from_pretrained(DIRECTORY, use_safetensors=False), then save_pretrained(OTHER)"
        text = (
            f"{directory / file} is a pickle, which can run code when it is read, and is not opened; "
            f"get the model with safetensors, or convert it where that is no danger: {cure}"
        )
        raise CatalogueError(where, "path", text)
    if settings.variant and settings.variant not in (there := variants(directory)):
        has = (
            f"those there are {', '.join(sorted(there))}"
            if there
            else "its weights have no variants, so leave the key out"
        )
        raise CatalogueError(where, "variant", f"{settings.variant!r} is a variant of no weights in {directory}; {has}")


def _check_code(where: str, settings: ModelTable, directory: Path, index: Mapping[str, Any]) -> None:
    if settings.trust_remote_code:
        return
    for part, (module, _) in components(index).items():
        if (file := directory / part / f"{module}.py").is_file():
            cure = "trust_remote_code = true in the service's table lets it"
            raise CatalogueError(where, "path", f"{file} is code of the model's own {part}, which may not run; {cure}")
