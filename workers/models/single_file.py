"""A whole model in one file, as its authors publish it: `path` is the file, `config` a directory with the configuration to build it."""

from __future__ import annotations

from pathlib import Path

from workers.models.parts import PREFIXES, is_lora, other_component
from workers.models.pipeline_classes import PipelineClass
from workers.models.sources import INDEX, CatalogueError, find
from workers.models.weight_files import NoWeights, read_weights

#: Diffusers reads what ends otherwise as a pickle.
_SUFFIX = ".safetensors"


def configs_of(where: str, source: str, config: str) -> Path | None:
    """The directory of a single file's configs; None where `source` is no file. Raises `CatalogueError`."""
    file = Path(source).expanduser()
    if not file.is_file():
        if config:
            text = f"{config!r} is for a path that is one file, and {source!r} is none; leave the key out"
            raise CatalogueError(where, "config", text)
        return None
    if file.suffix == ".gguf":
        raise CatalogueError(
            where, "path", f"{source!r} is a GGUF file, one component; name its model as path, and the file in parts"
        )
    if not config:
        raise CatalogueError(
            where,
            "path",
            f"{source!r} is one file, which does not say how its model is built: name a directory with {INDEX}, the components' configs, "
            'scheduler and tokenizers, and the weights that the file lacks: config = "DIRECTORY" or a hub id',
        )
    directory = find(str(Path(config).expanduser())) or find(config)
    if directory is None:
        raise CatalogueError(
            where, "config", f"{config!r} is neither a directory nor in the hub's cache; name one with {INDEX}"
        )
    return directory


def check_single_file(where: str, file: Path, taken: PipelineClass) -> None:
    """Raise `CatalogueError` for a file that is no whole model, or that its pipeline is not read from."""
    if not taken.from_single_file:
        cure = "name the model's directory as path, and the file in parts"
        raise CatalogueError(
            where, "path", f"{file} cannot be read: diffusers reads no {taken.name} from one file; {cure}"
        )
    try:
        if file.suffix != _SUFFIX:
            raise NoWeights(f"has a name that does not end in {_SUFFIX}; pickles are not opened")
        names = list(read_weights(file).tensors)
    except NoWeights as error:
        raise CatalogueError(where, "path", f"{file} {error}") from None
    if any(map(is_lora, names)):
        raise CatalogueError(where, "path", f"{file} is a LoRA, which changes a model and is none; it belongs in loras")
    if not any(name.startswith(PREFIXES) for name in names) or not any(map(other_component, names)):
        cure = "name the model's directory as path, and the file in parts"
        raise CatalogueError(where, "path", f"{file} is one component of a model by its names ({names[0]}); {cure}")
