"""Files that replace components of a model: `parts` in its table, as `transformer = "wan-lightning-Q4_K_M.gguf"`.

A file has the names of diffusers (transformers, for a text encoder), of the model's authors, or of ComfyUI. Its header identifies it:
a LoRA, a whole checkpoint or another component's weights are refused at start, not after minutes of loading.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workers.models.library_source import library_places
from workers.models.sources import CatalogueError, config, dotted
from workers.models.weight_files import NoWeights, Tensor, WeightFile, read_weights

#: Text encoders that are read from llama.cpp's GGUF files.
GGUF_ENCODERS = frozenset({"T5EncoderModel", "UMT5EncoderModel"})

#: Component of the pipeline (as "transformer") -> file.
Parts = dict[str, str]

#: Where the classes of components that can be replaced come from.
_LIBRARIES = ("diffusers", "transformers")

#: What stands before the names of a component in a file of ComfyUI.
PREFIXES = ("model.diffusion_model.", "diffusion_model.")

_LORA = re.compile(r"lora_(?:A|B|up|down|unet|te)|\.lora\.|\.hada_|\.lokr_|\.dora_scale$|\.diff(?:_b)?$", re.IGNORECASE)
#: How the parts of a whole checkpoint are named: of those that are no transformer.
_OTHERS = re.compile(r"first_stage_model\.|cond_stage_model\.|conditioner\.|text_encoders?\.|vae\.")
_TEXT_ENCODER = re.compile(r"cond_stage_model\.|conditioner\.|text_encoders?\.")

#: Names of a component's tensors in all formats: enough to tell components apart.
_NAMES = (
    ("a VAE", re.compile(r"(?:encoder|decoder)\.(?:conv_in|conv1|conv_out|head|down|up|mid|stages)")),
    (
        "a text encoder",
        re.compile(
            r"shared\.weight|encoder\.block\.\d+\.layer\.|(?:text_model|model|language_model|visual|embeddings|token_embedding)\."
        ),
    ),
    ("an image encoder", re.compile(r"vision_model\.")),
    (
        "a transformer",
        re.compile(
            r"(?:double_|single_|joint_|transformer_|single_transformer_|refiner_)?(?:blocks|layers)\.|patch_embedding\.|proj_in\."
            r"|(?:down|up|input|output|mid|middle)_block"
        ),
    ),
)
_KINDS = {"transformer": "a transformer", "unet": "a transformer", "vae": "a VAE", "text_encoder": "a text encoder"}


def check_parts(where: str, parts: Mapping[str, str], index: Mapping[str, Any], directory: Path | None) -> Parts:
    """The files, absolute, each of which looks like weights of its component. Raises `CatalogueError`."""
    if parts and directory is None:
        text = "are of a model that is not on this machine; fetch it: python -m workers pull"
        raise CatalogueError(where, "parts", text)
    checked = {}
    for name, text in parts.items():
        file = Path(text).expanduser().absolute()
        if why := _fault(name, file, index, directory or Path()):
            raise CatalogueError(where, dotted("parts", name), why)
        checked[name] = str(file)
    return checked


def components(index: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Component -> (library, class), of those that a model's index names and has."""
    pairs = ((name, value) for name, value in index.items() if isinstance(value, list) and len(value) == 2)
    return {name: (value[0], value[1]) for name, value in pairs if all(isinstance(part, str) for part in value)}


def with_weights(index: Mapping[str, Any], directory: Path) -> set[str]:
    """The components that are models of diffusers or transformers."""
    named = components(index).items()
    return {one for one, (library, _) in named if library in _LIBRARIES and (directory / one / "config.json").is_file()}


def without_prefix(name: str) -> str:
    """A tensor's name without what ComfyUI puts before it."""
    return next((name[len(prefix) :] for prefix in PREFIXES if name.startswith(prefix)), name)


def is_lora(name: str) -> bool:
    """Whether a tensor of this name belongs to a LoRA, or to another small change of weights."""
    return _LORA.search(name) is not None


def other_component(name: str) -> bool:
    """Whether a tensor of this name, in a whole checkpoint, belongs to a component other than the transformer or UNet."""
    return _OTHERS.match(name) is not None


def of_text_encoder(name: str) -> bool:
    """Whether a tensor of this name, in a whole checkpoint, belongs to a text encoder."""
    return _TEXT_ENCODER.match(name) is not None


@functools.cache
def read_from_one_file() -> frozenset[str]:
    """Classes of components whose files under their authors' names the installed diffusers reads; read from its source."""
    for place in library_places():
        for node in ast.walk(ast.parse(Path(place, "loaders", "single_file_model.py").read_text(encoding="utf-8"))):
            match node:
                case ast.Assign(targets=[ast.Name(id="SINGLE_FILE_LOADABLE_CLASSES")], value=ast.Dict(keys=keys)):
                    return frozenset(str(key.value) for key in keys if isinstance(key, ast.Constant))
    return frozenset()


def _fault(name: str, file: Path, index: Mapping[str, Any], directory: Path) -> str:
    """Return the fault of a component's file; "" when nothing is seen."""
    there = with_weights(index, directory)
    if name not in there:
        return f"{file} is for a component that the model has not; those with weights are {', '.join(sorted(there)) or 'none'}"
    try:
        read = read_weights(file)
    except NoWeights as error:
        return f"{file} {error}"
    library, kind = components(index)[name]
    if read.kind == "gguf":
        if kind in GGUF_ENCODERS:
            if not read.of_llama_cpp:
                return f"{file} has no tensors under llama.cpp's names for a {kind}; get it as safetensors"
        elif library != "diffusers" or kind not in read_from_one_file():
            return f"{file} is a GGUF file, and {library} reads none for a {kind}; get it as safetensors"
        if importlib.util.find_spec("gguf") is None:
            return f"{file} is a GGUF file, which needs the package gguf, which is not installed: pip install gguf"
    if "quantization_config" in config(directory, name):
        return f"{file} would be read by the config of the model's own {name}, which is quantised; take a model that is not"
    return _of_another_kind(name, file, read) or _of_another_shape(file, read, directory / name)


def _of_another_kind(name: str, file: Path, read: WeightFile) -> str:
    names = list(read.tensors)
    if not names:
        return f"{file} has no tensors; get the file anew"
    if any(map(is_lora, names)):
        return f"{file} is a LoRA, which changes weights and is none; it belongs in loras"
    inner = next((one for one in names if one != without_prefix(one)), "")
    other = next(filter(other_component, names), "")
    if inner and other:
        return f"{file} is a whole checkpoint ({inner} beside {other}), and one component is needed; it belongs in path"
    expected = _KINDS.get(re.sub(r"_\d+$", "", name), "")
    found = _kind([without_prefix(one) for one in names])
    if expected and found and expected != found:
        return f"{file} is {found} by its names ({names[0]}), and {expected} is needed"
    return ""


def _kind(names: list[str]) -> str:
    """Return the component that most of the names are of, if any."""
    counts = {kind: sum(1 for name in names if pattern.match(name)) for kind, pattern in _NAMES}
    best = max(counts, key=lambda kind: counts[kind])
    return best if counts[best] * 2 > len(names) else ""


def _of_another_shape(file: Path, read: WeightFile, base: Path) -> str:
    """Under diffusers' names, shapes must be those of the model's own weights, where it has any."""
    own = own_tensors(base)
    plain = {without_prefix(name): tensor for name, tensor in read.tensors.items()}
    if len(own.keys() & plain.keys()) * 2 < len(own):
        return ""  # the names of others may be the same by chance
    for name, tensor in plain.items():
        known = own.get(name)
        if known is not None and known.shape != tensor.shape:
            shapes = " and ".join("x".join(map(str, one.shape)) for one in (tensor, known))
            return f"{file} is of another model: shapes of {name} are {shapes} in the file and in {base}"
    return ""


def own_tensors(part: Path) -> dict[str, Tensor]:
    """Read the headers of the safetensors files in a component's directory; empty when it has none."""
    tensors: dict[str, Tensor] = {}
    for file in sorted(part.glob("*.safetensors")):
        try:
            tensors.update(read_weights(file).tensors)
        except NoWeights:
            continue
    return tensors
