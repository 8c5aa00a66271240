"""What is known of the classes of the suite as tables in Markdown, for `docs/models.md`."""

from __future__ import annotations

from broker.wire.inputs import ROLES
from tests.engine.families.cases import CASES, CHECKS, NOT_RUN, UNFIT, Case


def not_served() -> str:
    """What is not run here, and what is refused, as tables in Markdown."""
    lines = ["| not run here, for want of | classes |", "|---|---|"]
    lines += [f"| `{package}` | {', '.join(f'`{name}`' for name in names)} |" for package, names in NOT_RUN.items()]
    lines += ["", "| refused, as it needs | for example |", "|---|---|"]
    for needs in dict.fromkeys(UNFIT.values()):
        lines.append(f"| {needs} | {', '.join(f'`{name}`' for name, why in UNFIT.items() if why == needs)} |")
    return "\n".join(lines)


def table() -> str:
    """The classes as a table in Markdown: what each draws and from what, its limits, and which checks fail."""
    lines = ["| class | draws | from | frames | limits | open |", "|---|---|---|---|---|---|"]
    for case in sorted(CASES, key=lambda case: (case.output == "image", case.label)):
        limits = [f"`{field}` has no effect" for field in case.without if field != "size"]
        limits += ["chooses the size itself"] if "size" in case.without else []
        limits += (
            [f"makes sound, too{f', with `extra.{case.sound_by}`' if case.sound_by else ''}"] if case.sound else []
        )
        limits += [case.note] if case.note else []
        limits += [f"needs {case.package}, and is tried where that is installed"] if case.package else []
        limits += ["core checks"] if case.brief else []
        source = _source(case)
        lines.append(
            f"| `{case.name}`{f', {case.variant}' if case.variant else ''} | {case.output} | {source} | {_frames(case)} "
            f"| {'; '.join(limits)} | {'; '.join(_open(case))} |"
        )
    return "\n".join(lines)


def _open(case: Case) -> list[str]:
    """The checks that fail, by reason."""
    by_reason: dict[str, list[str]] = {}
    for check, why in case.faults.items():
        by_reason.setdefault(why, []).append(check)
    return [f"{', '.join(checks)}: {why}" for why, checks in by_reason.items()]


def _source(case: Case) -> str:
    if not case.prompt:
        return "noise alone"
    nouns = {role: ROLES[role].noun for role in (*case.needs, *case.takes)}
    with_needs = " and ".join([_FROM[case.picture], *(nouns[role] for role in case.needs)])
    return "; may have ".join([with_needs, *([", ".join(nouns[role] for role in case.takes)] if case.takes else [])])


_FROM = {"no": "text", "may": "text, or text and picture", "must": "text and picture"}


def _frames(case: Case) -> str:
    if case.output == "image":
        return ""
    if case.frame_choices:
        return " or ".join(map(str, case.frame_choices))
    if case.frame_step == 1:
        return "any" if case.frame_least == 1 else f"{case.frame_least} or more"
    rule = f"{case.frame_step}k+{case.frame_offset}" if case.frame_offset % case.frame_step else f"{case.frame_step}k"
    return rule if case.frame_least == 1 else f"{rule}, {case.frame_least} or more"


def checks() -> str:
    """The checks as a table in Markdown."""
    return "\n".join(
        ["| check | what holds |", "|---|---|", *(f"| {name} | {what} |" for name, what in CHECKS.items())]
    )
