"""Print the rooms of the code and the arrows between them, read from the imports: `python -m scripts.rooms [--of ROOM] [--dot] [--fields]`.

A room is a folder with Python files. An arrow runs from a room to one that a file of it imports from, for type checking alone too.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("broker", "workers", "http_edge", "bench", "zoetrope")

#: The API families: one package each, beside what they share.
_FAMILIES = tuple(
    sorted(
        f"http_edge/api/{path.parent.name}"
        for path in (ROOT / "http_edge/api").glob("*/family.py")
        if path.parent.name != "common"
    )
)

#: The rooms of each folder, from the top floor down: an arrow within a folder leads to a lower floor, never up and never sideways.
FLOORS: dict[str, tuple[tuple[str, ...], ...]] = {
    "broker": (
        ("broker", "broker/testing"),
        ("broker/shell",),
        ("broker/shell/journal", "broker/shell/net"),
        ("broker/core",),
        ("broker/core/scheduling",),
        ("broker/client", "broker/depot"),
        ("broker/wire", "broker/runtime"),
    ),
    "workers": (
        ("workers/launchers/ray",),
        ("workers/launchers", "workers/rank"),
        ("workers",),
        ("workers/agent", "workers/engine"),
        ("workers/machines",),
        ("workers/supervisor",),
        ("workers/ipc", "workers/gpu", "workers/depot"),
        ("workers/models",),
        ("workers/demo_model",),
    ),
    "http_edge": (
        ("http_edge",),
        ("http_edge/openapi", "http_edge/background", "http_edge/page"),
        _FAMILIES,
        ("http_edge/api/common", "http_edge/api"),
        ("http_edge/jobs",),
        ("http_edge/media",),
        ("http_edge/body", "http_edge/auth", "http_edge/http"),
        ("http_edge/base",),
    ),
    "bench": (
        ("bench",),
        ("bench/peers",),
        ("bench/suites",),
        ("bench/harness",),
        ("bench/report",),
    ),
    "zoetrope": (
        ("zoetrope",),
        ("zoetrope/cli",),
        ("zoetrope/client", "zoetrope/serving"),
    ),
}


def sources(*folders: str) -> list[Path]:
    """The Python files below these folders."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def module_of(path: Path) -> str:
    """The dotted name of a file's module; that of the package for an `__init__.py`."""
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


def room_of(path: Path) -> str:
    """The folder of a file."""
    return path.parent.relative_to(ROOT).as_posix()


@cache
def tree(path: Path) -> ast.Module:
    """The file, parsed."""
    return ast.parse(path.read_text(encoding="utf-8"))


def _runtime(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those below `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)):
            yield child
            yield from _runtime(child)


@cache
def imports(path: Path, *, runtime: bool = True) -> frozenset[str]:
    """Every module named in an import, `from x import y` giving both x and x.y. Raises `ValueError` for a relative import."""
    found: set[str] = set()
    for node in _runtime(tree(path)) if runtime else ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise ValueError(f"{path}: relative import")
            found.add(node.module or "")
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return frozenset(found)


def arrows() -> dict[tuple[str, str], set[str]]:
    """(room, room it imports from) -> the imports that are the reason, as "file > module"."""
    files = {module_of(path): path for path in sources(*FOLDERS)}
    found: dict[tuple[str, str], set[str]] = defaultdict(set)
    for path in files.values():
        for name in imports(path, runtime=False):
            target = files.get(name)
            # `from a.b import c` also names the package a.b; an empty package is no reason for an arrow.
            if target is None or room_of(target) == room_of(path):
                continue
            if target.name == "__init__.py" and len(tree(target).body) == 1:
                continue
            found[room_of(path), room_of(target)].add(f"{path.name} > {name}")
    return dict(found)


#: The structs whose fields are counted: what a request may ask for, and what is known of a job.
COUNTED = {
    "Generation": "http_edge/jobs/generation.py",
    "Submission": "broker/wire/submission.py",
    "JobRecord": "broker/core/jobs.py",
    "Job": "broker/core/jobs.py",
}


def fields(struct: str) -> list[str]:
    """The fields that one of `COUNTED` declares."""
    for node in ast.walk(tree(ROOT / COUNTED[struct])):
        if isinstance(node, ast.ClassDef) and node.name == struct:
            return sorted(_declared(node))
    raise ValueError(f"{COUNTED[struct]} has no class {struct}")


def _declared(node: ast.ClassDef) -> set[str]:
    return {one.target.id for one in node.body if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)}


@cache
def _written(path: Path) -> frozenset[str]:
    """Names that a file's classes declare, and names of arguments that its calls give: where a field is written again, not read."""
    found: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ClassDef):
            found |= _declared(node)
        elif isinstance(node, ast.keyword) and node.arg:
            found.add(node.arg)
    return frozenset(found)


def places(field: str) -> list[str]:
    """The product's files that declare a field of this name, or pass it on by name."""
    product = [path for path in sources("broker", "workers", "http_edge") if room_of(path) != "broker/testing"]
    return [path.relative_to(ROOT).as_posix() for path in product if field in _written(path)]


def _fields_text() -> Iterator[str]:
    for struct, path in COUNTED.items():
        yield f"{struct} ({path}): product files that declare a field of this name or pass it on by name"
        for field in sorted(fields(struct), key=lambda field: -len(places(field))):
            yield f"  {field:22}{len(places(field)):4}  {' '.join(places(field))}"


def circles() -> list[list[str]]:
    """Groups of rooms that reach one another (Tarjan's strongly connected components of more than one room)."""
    graph: dict[str, set[str]] = defaultdict(set)
    for source, target in arrows():
        graph[source].add(target)
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(room: str) -> None:
        index[room] = low[room] = len(index)
        stack.append(room)
        for target in sorted(graph[room]):
            if target not in index:
                visit(target)
                low[room] = min(low[room], low[target])
            elif target in stack:
                low[room] = min(low[room], index[target])
        if low[room] == index[room]:
            group = stack[stack.index(room) :]
            del stack[stack.index(room) :]
            if len(group) > 1:
                found.append(sorted(group))

    for room in sorted(graph):
        if room not in index:
            visit(room)
    return found


def _floors_text() -> Iterator[str]:
    counts = {(source, target): len(reasons) for (source, target), reasons in arrows().items()}
    for folder, floors in FLOORS.items():
        rooms = {room_of(path) for path in sources(folder)}
        inner = sum(1 for source, target in counts if source in rooms and target in rooms)
        yield f"{folder}: {len(rooms)} rooms on {len(floors)} floors, {inner} arrows inside"
        for floor in floors:
            for room in floor:
                if room not in rooms:
                    continue
                files = [path for path in sources(room) if room_of(path) == room and path.name != "__init__.py"]
                lines = sum(path.read_text(encoding="utf-8").count("\n") for path in files)
                targets = sorted(target for source, target in counts if source == room)
                yield f"  {room:24}{len(files):4} files {lines:6} lines  -> {', '.join(targets) or '-'}"
        yield ""
    yield f"{len({room_of(path) for path in sources(*FOLDERS)})} rooms, {len(counts)} arrows, circles: {circles() or 'none'}"


def main(argv: list[str]) -> int:
    """Print the rooms, the imports of one, or the fields."""
    parser = argparse.ArgumentParser(prog="python -m scripts.rooms", description=__doc__)
    parser.add_argument("--of", metavar="ROOM", help="the imports behind the arrows from and to this room")
    parser.add_argument("--dot", action="store_true", help="the graph in Graphviz' language")
    parser.add_argument(
        "--fields", action="store_true", help="how many files write each field of a request and of a job"
    )
    options = parser.parse_args(argv)
    if options.fields:
        print("\n".join(_fields_text()))
    elif options.dot:
        print("digraph rooms {")
        for source, target in sorted(arrows()):
            print(f'  "{source}" -> "{target}"')
        print("}")
    elif options.of:
        for (source, target), reasons in sorted(arrows().items()):
            if options.of in (source, target):
                print(f"{source} -> {target}")
                for reason in sorted(reasons):
                    print(f"    {reason}")
    else:
        print("\n".join(_floors_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
