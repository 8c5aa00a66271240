"""Print the family table: what is known of each class, and the counts.

python -m tests.engine.families                    what `cases.py` and the list of resumable classes say
FAMILIES=all python -m pytest tests/engine/families --junitxml=run.xml
python -m tests.engine.families run.xml [MORE ...] what those runs found, class by class
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from tests.engine.families.cases import CASES, CHECKS, CORE, NOT_RUN, UNFIT, Case
from workers.models.resumable import RESUMABLE

#: (case's label, check) -> how its tests ended: "passed", "failed" or "skipped".
Outcomes = Mapping[tuple[str, str], set[str]]


def read(paths: Iterable[str]) -> Outcomes:
    """Outcomes of the checks in these JUnit files, as pytest writes them."""
    found: dict[tuple[str, str], set[str]] = defaultdict(set)
    for path in paths:
        for test in ElementTree.parse(path).iter("testcase"):
            function, _, parameters = test.get("name", "").rstrip("]").partition("[")
            check = function.removeprefix("test_")
            if check not in CHECKS:
                continue
            label = parameters.removeprefix("encode-").removeprefix("denoise-")
            label = label.removesuffix("-encode").removesuffix("-denoise")
            kinds = {child.tag for child in test}
            found[label, check].add(
                "skipped" if "skipped" in kinds else "failed" if kinds & {"failure", "error"} else "passed"
            )
    return found


def table(outcomes: Outcomes | None) -> str:
    """A line a case: its core, all its checks, whether it goes on from a checkpoint, LoRAs, and what it draws from."""
    width = max(len(case.label) for case in CASES)
    lines = [f"{'class':{width}}  core  all   goes on  LoRA  from"]
    for case in CASES:
        core, every = (_mark(case, checks, outcomes) for checks in (CORE, tuple(CHECKS)))
        resumes, lora = "yes" if case.name in RESUMABLE else "anew", "drawn" if case.lora else ""
        lines.append(f"{case.label:{width}}  {core:4}  {every:4}  {resumes:7}  {lora:5} {', '.join(_inputs(case))}")
    return "\n".join(lines)


def counts(outcomes: Outcomes | None) -> str:
    """Classes, and how many of them do what; of a class with variants, all of them do."""
    classes: dict[str, list[Case]] = defaultdict(list)
    for case in CASES:
        classes[case.name].append(case)

    def right(checks: tuple[str, ...]) -> int:
        return sum(all(_mark(case, checks, outcomes) == "yes" for case in cases) for cases in classes.values())

    inputs = Counter(kind for cases in classes.values() for kind in {kind for case in cases for kind in _inputs(case)})
    not_run = sum(map(len, NOT_RUN.values()))
    lines = [
        f"{len(classes)} classes with a case ({len(CASES)} cases), {not_run} with a card and not run, {len(UNFIT)} refused here by name",
        f"right at the core ({', '.join(CORE)}): {right(CORE)}",
        f"right in everything: {right(tuple(CHECKS))}",
        f"go on from a checkpoint bit-equal, and so may be preempted: {sum(name in RESUMABLE for name in classes)}",
        f"drawn with a LoRA, one class for each loader: {sum(any(case.lora for case in cases) for cases in classes.values())}",
        f"by input: {', '.join(f'{kind} {number}' for kind, number in inputs.most_common())}",
    ]
    return "\n".join(lines)


def _mark(case: Case, checks: tuple[str, ...], outcomes: Outcomes | None) -> str:
    """Whether these checks hold: "yes", "no", or "?" where one was not run."""
    if outcomes is None:
        return "no" if {"all", *checks} & case.faults.keys() else "?" if case.package else "yes"
    ends = [outcomes.get((case.label, check), {"skipped"}) for check in checks]
    return "no" if any("failed" in end for end in ends) else "?" if any("skipped" in end for end in ends) else "yes"


def _inputs(case: Case) -> tuple[str, ...]:
    given = ("text",) if case.prompt else ("nothing",)
    return (*given, *(("image",) if case.picture != "no" else ()), *case.needs, *case.takes)


def main(paths: list[str]) -> int:
    outcomes = read(paths) if paths else None
    sys.stdout.write(f"{table(outcomes)}\n\n{counts(outcomes)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
