"""Errors of making a model ready, each one sentence: the model's table and key, the value, what is wrong, and the cure.

As those at start (`workers.models.sources.CatalogueError`), which reads names, sizes and headers alone. What shows only when weights are
read ends here: errors of the libraries are put in our words where that helps, and what they only log (weights that a file lacks, which
they draw at random) is an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import ModelMixin
from msgspec import Struct
from transformers import PreTrainedModel

from broker.wire.jobspec import ModelCard
from workers.engine.errors import LoadError, OutOfMemory
from workers.engine.failures import is_out_of_memory
from workers.engine.packages import missing_package
from workers.models.model import ModelSetup
from workers.models.sources import parse_hub_id, shown
from workers.models.weight_files import NoWeights

#: Error of a library -> its explanation; "{}" are the pattern's groups. The first that is found counts.
_EXPLANATIONS = tuple(
    (re.compile(pattern, re.DOTALL), text)
    for pattern, text in (
        (r"Error no file named (\S+) found in directory (\S+?)\.?$", "{1}/{0} is not there"),
        (r"config file at '(.+?)' is not a valid JSON", "{0} is no JSON"),
        (r"Couldn't instantiate the backend tokenizer", "the files of its tokenizer are not there, or damaged"),
        (
            r"Cannot load because (\S+) expected shape torch.Size\(\[([\d, ]*)\]\), but got torch.Size\(\[([\d, ]*)\]\)",
            "{0} has the shape [{2}] in the file and [{1}] by the config: they are of different models",
        ),
        (
            r"size mismatch for (\S+): copying a param with shape torch.Size\(\[([\d, ]*)\]\) from checkpoint, "
            r"the shape in current model is torch.Size\(\[([\d, ]*)\]\)",
            "{0} has the shape [{1}] in the file and [{2}] by the config: they are of different models",
        ),
        (r"Unable to load weights from checkpoint file for '(.+?)'", "{0} is damaged"),
        (r"`(\w+)` has no class `(\w+)`", "model_index.json names the class {1}, which the installed {0} has not"),
        (
            r"(\S+) is not one of the libraries Diffusers can load components from",
            "model_index.json names the library {0}, which is none of diffusers' or transformers'",
        ),
        (r"Cannot copy out of meta tensor", "it lacks weights"),
    )
)

#: Last layers of language models, which encoders of prompts do not use, and which are left out of some models' files.
_UNUSED = re.compile(r"(?:^|\.)(?:lm_head|pooler)\.")
#: Number of a block in a weight's name.
_BLOCK = re.compile(r"\.\d+\.")


class LackingWeights(LoadError):
    """The weights of a component are not all there."""


class _Found(Struct, frozen=True):
    """Names of weights that were missing, of another shape, and of blocks that there are not, when a component was read."""

    kind: str
    total: int
    missing: tuple[str, ...]
    mismatched: tuple[str, ...] = ()
    beyond: tuple[str, ...] = ()


def load_error(
    card: ModelCard, setup: ModelSetup, error: BaseException, key: str = "path", value: Any = None
) -> LoadError | OutOfMemory:
    """Build the error for what was raised while a model was made ready; `key` of its table is to blame, which is `value`."""
    value = card.source if value is None else value
    if isinstance(error, LackingWeights):
        text = str(error)
    elif isinstance(error, NoWeights):
        text = f"it {error}"
    else:
        text = " ".join((missing_package(error) or str(error)).split()) or type(error).__name__
        text = next(
            (explanation.format(*found.groups()) for at, explanation in _EXPLANATIONS if (found := at.search(text))),
            text,
        )
    if is_out_of_memory(error):
        less = 'write speed.quantize for its largest components, or placement = "leaf"'
        return OutOfMemory(f"{_place(card, setup, key, value)}: memory ran out while it was loaded ({text}); {less}")
    return LoadError(f"{_place(card, setup, key, value)}: {text}{_cure(text, key, value)}")


def refusal(card: ModelCard, setup: ModelSetup, key: str, value: Any, why: str) -> LoadError:
    """The error for a `value` of the model's table that cannot be honoured; `why` goes on from it."""
    return LoadError(f"{where_of(card, setup)} {key}: {shown(value)} {why}")


def where_of(card: ModelCard, setup: ModelSetup) -> str:
    """Name of the model in an error."""
    return setup.where or f"model {card.name!r}"


def _place(card: ModelCard, setup: ModelSetup, key: str, value: Any) -> str:
    return f"{where_of(card, setup)} {key}: {value!r} cannot be loaded"  # a path is not to be cut


def _cure(text: str, key: str, value: Any) -> str:
    if "pip install" in text or "fetch it" in text:
        return ""
    if "has not" in text and "class" in text:
        return "; install the release that the model names as _diffusers_version, or leave the model out"
    if key != "path":
        return f"; get the file anew, or leave {key} out"
    hub = parse_hub_id(str(value))
    return f"; get it anew: python -m workers pull {value}" if hub is not None else "; get its files anew"


@contextmanager
def all_weights_found() -> Iterator[None]:
    """Inside, components that diffusers and transformers read must find all of their weights. Raises `LackingWeights`.

    The libraries draw those that a file lacks at random, and log a warning.
    """
    found: list[_Found] = []
    diffusers_load = vars(ModelMixin)["_load_pretrained_model"]
    transformers_end = vars(PreTrainedModel)["_finalize_model_loading"]

    def read(cls: Any, model: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        answer = diffusers_load.__func__(cls, model, *args, **kwargs)
        found.append(_read(model, missing=answer[1], unexpected=answer[2]))
        return answer

    def end(model: torch.nn.Module, config: Any, info: Any) -> Any:
        try:
            return transformers_end.__func__(model, config, info)
        finally:
            # Pipelines cut the last layers of language models off by their configs: nothing is beyond them.
            mismatched = (entry[0] for entry in info.mismatched_keys)
            found.append(_read(model, missing=info.missing_keys, mismatched=mismatched))

    patched: Any = ModelMixin
    patched._load_pretrained_model = classmethod(read)
    ended: Any = PreTrainedModel
    ended._finalize_model_loading = staticmethod(end)
    try:
        try:
            yield
        except Exception as error:
            _raise_for(found, error)
            raise
        _raise_for(found, None)
    finally:
        patched._load_pretrained_model = diffusers_load
        ended._finalize_model_loading = transformers_end


def _read(
    model: torch.nn.Module, missing: Iterable[str], mismatched: Iterable[str] = (), unexpected: Iterable[str] = ()
) -> _Found:
    own = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    blocks = {_BLOCK.sub(".#.", name) for name in own}
    return _Found(
        type(model).__name__,
        len(own),
        tuple(sorted(name for name in missing if name in own and not _UNUSED.search(name))),
        tuple(sorted(mismatched)),
        tuple(sorted(name for name in unexpected if _BLOCK.search(name) and _BLOCK.sub(".#.", name) in blocks)),
    )


def _raise_for(found: list[_Found], error: Exception | None) -> None:
    for one in found:
        if one.mismatched:
            fault = f"has {_some(one.mismatched)} in another shape than its config says"
        elif one.missing:
            fault = f"lacks {len(one.missing)} of {one.total} weights, {_some(one.missing)}"
        elif one.beyond:
            fault = f"has fewer blocks by its config than its weights, which have {_some(one.beyond)}"
        else:
            continue
        raise LackingWeights(
            f"its {one.kind} {fault}: config and weights are of different models, or not whole"
        ) from error


def _some(names: tuple[str, ...]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")
