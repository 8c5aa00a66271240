"""Components of a model out of files of their own: safetensors or GGUF, under names of any origin."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from accelerate import init_empty_weights
from diffusers import GGUFQuantizationConfig
from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES
from diffusers.models.model_loading_utils import load_gguf_checkpoint
from safetensors.torch import load_file
from transformers import modeling_gguf_pytorch_utils

from workers.engine.errors import LoadError
from workers.models.parts import GGUF_ENCODERS, PREFIXES, without_prefix
from workers.models.weight_files import read_weights

#: Typed as a whole, which the libraries are not.
_gguf_tensors: Any = load_gguf_checkpoint
_llama_cpp_tensors: Any = modeling_gguf_pytorch_utils.load_gguf_checkpoint
_GgufConfig: Any = GGUFQuantizationConfig
_SINGLE_FILES: dict[str, Any] = SINGLE_FILE_LOADABLE_CLASSES

_FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)

#: Beside a weight in float8: what it was divided by. Beside all of them: marks of the program that wrote the file.
_SCALES = (".scale_weight", ".weight_scale")
_MARKS = ("scaled_fp8", ".scale_input", ".input_scale", ".comfy_quant")


def load_component(kind: tuple[str, str], file: Path, config: Path, dtype: torch.dtype) -> torch.nn.Module:
    """A component of the (library, class) `kind` from a file, built by the config in the directory `config`; in host memory, in `dtype`.

    Weights in float8 are brought to `dtype`. Raises `LoadError` for a file that lacks weights of the component, else as the libraries do.
    """
    library, name = kind
    quantised = read_weights(file).kind == "gguf"
    encoder = name in GGUF_ENCODERS and quantised
    state = (
        _dequantised(getattr(transformers, name), file, config, dtype) if encoder else _state(file, quantised, dtype)
    )
    if library == "transformers":
        model = _of_transformers(getattr(transformers, name), state, config, dtype)
    elif quantised:
        model = getattr(diffusers, name).from_single_file(
            state,
            config=str(config.parent),
            subfolder=config.name,
            dtype=dtype,
            local_files_only=True,
            quantization_config=_GgufConfig(compute_dtype=dtype),
        )
    else:
        model = _of_diffusers(getattr(diffusers, name), state, config, dtype)
    lacking = [name for name, weight in model.named_parameters() if weight.is_meta]
    if lacking:
        raise LoadError(f"it lacks weights of the {config.name}: {lacking[0]}{_and_more(lacking)}")
    made: torch.nn.Module = model.eval()
    return made


def _dequantised(kind: Any, file: Path, config: Path, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The weights of a text encoder in a GGUF file of llama.cpp's, under transformers' names, in `dtype`."""
    with init_empty_weights():
        model = kind(kind.config_class.from_pretrained(str(config), local_files_only=True))
    read = _llama_cpp_tensors(str(file), return_tensors=True, model_to_load=model, torch_dtype=dtype)
    tensors: dict[str, torch.Tensor] = read["tensors"]
    return tensors


def _state(file: Path, quantised: bool, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    read: dict[str, torch.Tensor] = _gguf_tensors(str(file)) if quantised else load_file(file)
    state = {without_prefix(name): tensor for name, tensor in read.items() if not name.endswith(_MARKS)}
    scales = {name: state.pop(name) for name in tuple(state) if name.endswith(_SCALES)}
    for name, scale in scales.items():
        weight = name.rpartition(".")[0] + ".weight" if name.endswith(_SCALES[0]) else name.removesuffix("_scale")
        if weight in state:
            state[weight] = (state[weight].float() * _beside(scale.float(), state[weight])).to(dtype)
    return {name: tensor.to(dtype) if tensor.dtype in _FLOAT8 else tensor for name, tensor in state.items()}


def _beside(scale: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The scale in a shape that multiplies rows: one for all, or one a row."""
    return scale if scale.numel() == 1 else scale.reshape(weight.shape[0], *[1] * (weight.ndim - 1))


def _of_transformers(kind: Any, state: dict[str, torch.Tensor], config: Path, dtype: torch.dtype) -> Any:
    model, found = kind.from_pretrained(
        None,
        config=kind.config_class.from_pretrained(str(config), local_files_only=True),
        state_dict=state,
        dtype=dtype,
        output_loading_info=True,
    )
    if lacking := sorted(found["missing_keys"]):
        raise LoadError(f"it lacks weights of the {config.name}: {lacking[0]}{_and_more(lacking)}")
    return model


def _of_diffusers(kind: Any, state: dict[str, torch.Tensor], config: Path, dtype: torch.dtype) -> Any:
    """As `from_single_file`, which ignores the modules that stay in float32."""
    own = kind.load_config(str(config), local_files_only=True)
    with init_empty_weights():
        model = kind.from_config(own)
    names = model.state_dict().keys()
    # A file in our names may lack some; renamed, it would lack others.
    if len(names & state.keys()) * 2 < len(names):
        state = _in_our_names(kind, state, own)
    ignored = kind._keys_to_ignore_on_load_unexpected or ()
    float32 = frozenset(kind._keep_in_fp32_modules or ())
    state = {
        name: tensor.to(torch.float32 if float32.intersection(name.split(".")) else dtype)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in state.items()
    }
    found = model.load_state_dict(state, strict=False, assign=True)
    if lacking := sorted(found.missing_keys):
        raise LoadError(f"it lacks weights of the {config.name}: {lacking[0]}{_and_more(lacking)}")
    foreign = [name for name in found.unexpected_keys if not any(re.search(known, name) for known in ignored)]
    if foreign:
        raise LoadError(f"it has weights that the {config.name} has not: {foreign[0]}{_and_more(foreign)}")
    return model


def _in_our_names(kind: Any, state: dict[str, torch.Tensor], config: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The weights under diffusers' names; as they are where it has no others."""
    for name, of_class in _SINGLE_FILES.items():
        if issubclass(kind, getattr(diffusers, name)):
            # Of a UNet it takes what begins with this alone.
            prefix = PREFIXES[0] if name == "UNet2DConditionModel" else ""
            checkpoint = {prefix + key: tensor for key, tensor in state.items()}
            converted: dict[str, torch.Tensor] = of_class["checkpoint_mapping_fn"](checkpoint=checkpoint, config=config)
            return converted
    return state


def _and_more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
