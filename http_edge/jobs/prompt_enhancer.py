"""Prompt enhancer: a chat model behind an OpenAI-style endpoint that writes a fuller prompt from the client's.

The endpoint is the operator's, and is reached through the same guard as clients' URLs, with a list of private addresses of its own. What it
answers is text from elsewhere: bounded in size and time, and drawn as a prompt and nothing else.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from broker.runtime.log_actions import Action
from broker.runtime.settings import SettingsError
from broker.wire.jobspec import MAX_PROMPT_CHARS, JobSpec
from http_edge.base.errors import EdgeError
from http_edge.base.settings import EdgeSettings
from http_edge.media.fetch import Fetcher, NotSent
from http_edge.media.ssrf import SsrfGuard

log = logging.getLogger(__name__)

FIELD = "use_prompt_enhancer"

#: Of an answer; a prompt has at most 20,000 characters, and what else stands around it is small.
_MAX_ANSWER_BYTES = 512 * 1024
_MAX_TOKENS = 2048
_RETRY_S = 5.0

SYSTEM_PROMPT = (
    "You write prompts for a model that draws {output}s. Rewrite the user's prompt into one vivid, concrete description in at most"
    " 120 words: keep every subject, action, number, name, quoted text and style that it asks for, add fitting detail of setting,"
    " light, colour and camera, and invent no new subject. Answer in the prompt's own language, with the description alone: no title,"
    " no quotes, no comment."
)

#: Reasoning models write their reasoning in front of the answer.
_THOUGHTS = re.compile(r"\A\s*<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL)


class _Message(Struct):
    content: Annotated[str, Meta(min_length=1)]


class _Choice(Struct):
    message: _Message


class _Completion(Struct):
    choices: Annotated[list[_Choice], Meta(min_length=1)]


class EnhancerFailed(Exception):
    """No prompt came; the text is the reason."""


class PromptEnhancer:
    """Enhances prompts by the endpoint in the settings."""

    def __init__(self, settings: EdgeSettings, fetcher: Fetcher | None = None) -> None:
        """Raises `SettingsError` for settings that do not fit together, or a key file that cannot be read."""
        self._url = settings.prompt_enhancer_url
        self._model = settings.prompt_enhancer_model
        self._timeout_s = settings.prompt_enhancer_timeout_s
        self._system = settings.prompt_enhancer_system_prompt or SYSTEM_PROMPT
        self._refuses = settings.prompt_enhancer_on_error == "refuse"
        if self._url and not self._model:
            raise SettingsError("prompt_enhancer_model: it is missing, and prompt_enhancer_url is set")
        try:
            self._fetcher = fetcher or Fetcher(SsrfGuard(settings.prompt_enhancer_allow))
        except ValueError as error:
            raise SettingsError(f"prompt_enhancer_allow: {error}") from None
        self._key = _read_key(settings.prompt_enhancer_key_file)

    async def apply(self, spec: JobSpec) -> JobSpec:
        """Put the enhanced prompt into the spec, or a warning that it is not. Raises `EdgeError` when that refuses the job."""
        if not self._url:
            return _with_warning(spec, "no prompt enhancer is set up here, so the prompt is drawn as it is")
        try:
            enhanced = await self._request(spec.prompt, spec.output)
        except EnhancerFailed as error:
            log.warning("prompt not enhanced", extra={"action": Action.ENHANCER, "reason": str(error)})
            if self._refuses:
                message = f"{FIELD}: the prompt enhancer failed: {error}"
                raise EdgeError("unavailable", message, param=FIELD, retry_after_s=_RETRY_S) from None
            return _with_warning(spec, f"the prompt enhancer failed, so the prompt is drawn as it is: {error}")
        return msgspec.structs.replace(spec, prompt=enhanced, original_prompt=spec.prompt)

    async def _request(self, prompt: str, output: str) -> str:
        """Return the enhanced prompt. Raises `EnhancerFailed`."""
        question: dict[str, Any] = {
            "model": self._model,
            "messages": [
                {"role": "system", "content": self._system.replace("{output}", output)},
                {"role": "user", "content": prompt},
            ],
            "max_tokens": _MAX_TOKENS,
            "stream": False,
        }
        headers = {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        body = msgspec.json.encode(question)
        try:
            status, data = await self._fetcher.post_for_body(
                self._url, headers, body, self._timeout_s, _MAX_ANSWER_BYTES
            )
        except NotSent as error:
            raise EnhancerFailed(str(error)) from None
        if status != 200:
            raise EnhancerFailed(f"its server answered {status}")
        try:
            text = msgspec.json.decode(data, type=_Completion).choices[0].message.content
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise EnhancerFailed("its answer is no chat completion") from None
        text = _THOUGHTS.sub("", text).strip().strip('"').strip()
        if not text:
            raise EnhancerFailed("its answer is empty")
        if "\0" in text:
            raise EnhancerFailed("its answer contains a NUL character")
        if len(text) > MAX_PROMPT_CHARS:
            raise EnhancerFailed(f"its answer has {len(text)} characters, at most {MAX_PROMPT_CHARS}")
        return text


def as_before(spec: JobSpec, first: JobSpec) -> JobSpec:
    """Give a repeated request the prompt, and the warnings, that the first of it got; the spec itself where that was another request."""
    if first.requested_prompt != spec.requested_prompt:
        return spec
    return msgspec.structs.replace(
        spec, prompt=first.prompt, original_prompt=first.original_prompt, warnings=first.warnings
    )


def _with_warning(spec: JobSpec, text: str) -> JobSpec:
    return msgspec.structs.replace(spec, warnings=(*spec.warnings, f"{FIELD}: {text}"))


def _read_key(path: str) -> str:
    if not path:
        return ""
    try:
        key = Path(path).expanduser().read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"prompt_enhancer_key_file: {path!r} cannot be read: {error}") from None
    if not key or not key.isprintable() or " " in key:
        raise SettingsError(f"prompt_enhancer_key_file: {path!r} must hold one key on one line")
    return key
