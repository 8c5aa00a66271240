"""Write the parts of docs/ that are printed from the code, between their markers: python scripts/make_docs.py [--check]"""

from __future__ import annotations

import argparse
import ast
import importlib
import sys
import tempfile
from pathlib import Path
from typing import Any

from broker.core.jobs import TABLE, Cause
from broker.runtime.log_actions import Action
from broker.runtime.settings import CommonSettings, OptionRow, describe
from broker.settings import BrokerSettings
from broker.wire.failures import FailureKind
from broker.wire.terms import FINAL, JobState
from http_edge.app import build_app, build_edge
from http_edge.base.settings import EdgeSettings
from http_edge.http.routing import operations_of
from http_edge.jobs.fields import FIELDS
from workers.launchers.settings import LauncherSettings
from workers.models.samplers import PRESETS
from workers.rank.settings import RankSettings
from workers.settings import WorkerSettings
from zoetrope.cli.terminal import EXIT_CODES

_KINDS = {
    "text": "text",
    "integer": "whole number",
    "number": "number",
    "size": "text, or two numbers",
    "aspect": "text",
    "arguments": "object",
    "flag": "true, false",
    "loras": "list of objects, an object, or text",
    "media": "text, an object, or a list; a file in forms",
}

ROOT = Path(__file__).resolve().parents[1]


def common_settings() -> str:
    """The table of what every process reads."""
    return _table(describe(CommonSettings))


def own_settings(kind: type[Any], beside: type[Any] = CommonSettings) -> str:
    """The table of one process's own settings, beside those of another kind."""
    shared = {row.name for row in describe(beside)}
    return _table([row for row in describe(kind) if row.name not in shared])


def _table(rows: list[OptionRow]) -> str:
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for row in rows:
        default = f"`{row.default}`" if row.default else ""
        meaning = row.help.replace("|", "\\|").replace("<", "&lt;")
        lines.append(f"| `{row.name}` | {row.type} | {default} | {meaning} |")
    return "\n".join(lines)


def state_diagram() -> str:
    """The transition table as a mermaid diagram. Moves that every live state has into a final one leave the frame around them."""
    live = [state for state in TABLE if state not in FINAL]
    to_end = {cause: target for cause, target in TABLE[live[0]].items() if target in FINAL}
    everywhere = {cause for cause in to_end if all(TABLE[state].get(cause) == to_end[cause] for state in live)}
    lines = [
        "```mermaid",
        "stateDiagram-v2",
        "    [*] --> live",
        "    state live {",
        "        [*] --> queued: submitted",
    ]
    for state in live:
        rest = {cause: target for cause, target in TABLE[state].items() if cause not in everywhere}
        rest.pop(Cause.SUBMITTED, None)
        lines += [f"        {line}" for line in _arrows(state, rest)]
    lines.append("    }")
    lines += [
        f"    {line}" for line in _arrows("live", {cause: to_end[cause] for cause in to_end if cause in everywhere})
    ]
    lines += [f"    {state} --> [*]" for state in TABLE if state in FINAL]
    return "\n".join([*lines, "```"])


def _arrows(source: str, moves: dict[Cause, JobState]) -> list[str]:
    causes: dict[JobState, list[str]] = {}
    for cause, target in moves.items():
        causes.setdefault(target, []).append(cause.value)
    return [f"{source} --> {target}: {', '.join(names)}" for target, names in causes.items()]


def every_route() -> str:
    """The routes by family, as the OpenAPI document has them."""
    lines = ["| family | route | what |", "|---|---|---|"]
    with tempfile.TemporaryDirectory() as start:
        edge = build_edge(EdgeSettings(home=start), Path(start))
        operations = operations_of(build_app(edge).routes)
    for operation in operations:
        lines.append(f"| {operation.tag.name} | `{operation.method} {operation.path}` | {operation.summary} |")
    return "\n".join(lines)


def _of_the_checkout(module: str) -> Any:
    """A module of the checkout that is not installed."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    return importlib.import_module(module)


def tested_models() -> dict[str, str]:
    """The checks of the conformance suite of pipelines, and the classes that it covers."""
    printed = _of_the_checkout("tests.engine.families.printed")
    return {"checks": printed.checks(), "classes": printed.table(), "not served": printed.not_served()}


def every_preset() -> str:
    """The presets that come with the service: what each is for and what it fixes."""
    rows = ["| preset | for | sampler | steps | guidance |", "|---|---|---|---|---|"]
    for name, preset in PRESETS.items():
        sampler = preset.sampler
        parts = [
            sampler.kind or "the model's own",
            *([f"shift {sampler.shift:g}"] if sampler.shift is not None else []),
        ]
        for what, values in (("sigmas", sampler.sigmas), ("timesteps", sampler.timesteps)):
            parts += [f"{what} {' '.join(f'{value:g}' for value in values)}"] if values else []
        parts += [sampler.spacing] if sampler.spacing else []
        own = "" if sampler.fixed or sampler.fixes_steps else " or the request's"
        rows.append(
            f"| `{name}` | {preset.about} | {', '.join(parts)} | {sampler.own_steps}{own} | {sampler.guidance:g}{own} |"
        )
    return "\n".join(rows)


def every_action() -> str:
    """The actions of log lines."""
    lines = ["| action | meaning |", "|---|---|"]
    return "\n".join([*lines, *(f"| `{action}` | {action.about} |" for action in Action)])


def every_room() -> str:
    """The rooms from the top floor down, and what each is for."""
    rooms = _of_the_checkout("scripts.rooms")
    lines = ["| floor | room | what |", "|---|---|---|"]
    for floors in rooms.FLOORS.values():
        for number, floor in enumerate(floors, 1):
            for room in floor:
                about = ast.get_docstring(rooms.tree(ROOT / room / "__init__.py")) or ""
                lines.append(f"| {number} | `{room}/` | {about.splitlines()[0]} |")
    return "\n".join(lines)


def every_field() -> str:
    """The fields of a generation, as the readers and the OpenAPI document have them."""
    lines = ["| field | also | type | meaning |", "|---|---|---|---|"]
    for field in FIELDS.values():
        also = ", ".join(f"`{name}`" for name in field.aliases)
        bounds = (
            f", {field.low:g} to {field.high:g}" if field.kind in ("integer", "number") and field.high < 1e18 else ""
        )
        kind = ", ".join(f"`{word}`" for word in field.choices) if field.kind == "choice" else _KINDS[field.kind]
        lines.append(f"| `{field.name}` | {also} | {kind}{bounds} | {field.about.replace('|', chr(92) + '|')} |")
    return "\n".join(lines)


_RETRIES = {
    "never": "no",
    "offload": "once, with a setting that trades speed for memory",
    "elsewhere": "once, on another worker first",
}


def every_failure() -> str:
    """The classes of failures and their rules."""
    lines = [
        "| code | meaning | tried again | counts as a crash | may trip its worker's breaker |",
        "|---|---|---|---|---|",
    ]
    for kind in FailureKind:
        rules = kind.rules
        again = "on another worker first" if rules.crash and rules.retry == "elsewhere" else _RETRIES[rules.retry]
        crash, blames = ("yes" if mark else "no" for mark in (rules.crash, rules.blames_worker))
        lines.append(f"| `{kind}` | {kind.about} | {again} | {crash} | {blames} |")
    return "\n".join(lines)


def every_exit_code() -> str:
    """The exit codes of the command `zoetrope`."""
    return "\n".join(
        ["| code | meaning |", "|---|---|", *(f"| {code} | {text} |" for code, text in EXIT_CODES.items())]
    )


def every_mutation() -> str:
    """The mutations that the simulation detects, each with its name for `python -m tests.simulation --mutations`."""
    lines = ["| rule left out | name |", "|---|---|"]
    mutations = _of_the_checkout("tests.simulation.mutations").ALL
    return "\n".join([*lines, *(f"| {one.rule} | `{one.name}` |" for one in mutations)])


def parts() -> dict[str, dict[str, str]]:
    """All generated parts by file and marker."""
    return {
        "docs/configuration.md": {
            "common": common_settings(),
            "broker": own_settings(BrokerSettings),
            "workers": own_settings(WorkerSettings),
            "rank": own_settings(RankSettings, WorkerSettings),
            "launcher": own_settings(LauncherSettings),
            "edge": own_settings(EdgeSettings),
        },
        "docs/api.md": {"failures": every_failure(), "fields": every_field(), "routes": every_route()},
        "docs/architecture.md": {"rooms": every_room(), "states": state_diagram()},
        "docs/command.md": {"exit codes": every_exit_code()},
        "docs/models.md": {**tested_models(), "presets": every_preset()},
        "docs/operations.md": {"log actions": every_action()},
        "docs/reliability.md": {"mutations": every_mutation()},
    }


def filled(text: str, name: str, content: str) -> str:
    """`text` with the part `name` replaced. Raises `ValueError` when its markers are not there once each."""
    begin, end = f"<!-- generated: {name} -->", f"<!-- end: {name} -->"
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"needs {begin} and {end}, once each")
    head, rest = text.split(begin)
    _, tail = rest.split(end)
    return f"{head}{begin}\n{content}\n{end}{tail}"


def main() -> int:
    """0 when all is up to date (or has been written), 1 when --check found a difference."""
    options = argparse.ArgumentParser(description="Write the generated parts of docs/.")
    options.add_argument("--check", action="store_true", help="change nothing; list what is out of date")
    check = options.parse_args().check
    stale = []
    for name, contents in parts().items():
        path = ROOT / name
        text = path.read_text(encoding="utf-8")
        new = text
        for part, content in contents.items():
            new = filled(new, part, content)
        if new != text:
            stale.append(name)
            if not check:
                path.write_text(new, encoding="utf-8")
    for name in stale:
        print(f"{name}: out of date; run: make docs" if check else f"{name}: written")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
