"""The shape of the code: who may import whom, how long things may grow, and what may never be near a socket."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("broker", "workers", "http_edge", "bench")
MAX_FILE, MAX_FUNCTION = 500, 60


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def module_of(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def type_checking_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def walk_runtime(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those below `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        if not type_checking_only(child):
            yield child
            yield from walk_runtime(child)


@cache
def imports(path: Path) -> frozenset[str]:
    """Every module named in an import, `from x import y` giving both x and x.y."""
    found: set[str] = set()
    for node in walk_runtime(tree(path)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return frozenset(found)


def under(name: str, *prefixes: str) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


def breaches(paths: list[Path], banned: tuple[str, ...], allowed: tuple[str, ...] = ()) -> list[str]:
    return [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in paths
        for name in sorted(imports(path))
        if under(name, *banned) and not under(name, *allowed)
    ]


def test_the_core_is_pure():
    banned = (
        "zmq",
        "asyncio",
        "socket",
        "time",
        "random",
        "os",
        "logging",
        "threading",
        "sqlite3",
        "pathlib",
        "datetime",
    )
    assert breaches(sources("broker/core"), banned) == []


def test_wire_is_the_standard_library_and_msgspec():
    wrong = [
        f"{path.name} imports {name}"
        for path in sources("broker/wire")
        for name in imports(path)
        if not under(name, "msgspec", "broker.wire") and name.split(".")[0] not in sys.stdlib_module_names
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("folder", "banned", "allowed"),
    [
        ("broker", ("workers", "http_edge", "bench", "torch", "starlette"), ()),
        ("broker/core", ("broker",), ("broker.core", "broker.wire")),
        ("workers", ("broker", "http_edge", "bench"), ("broker.wire", "broker.runtime.pictures")),
        (
            "http_edge",
            ("broker", "workers", "bench"),
            ("broker.wire", "broker.client.client", "broker.client.errors", "broker.runtime.pictures"),
        ),
        ("workers/agent", ("torch", "diffusers", "transformers", "numpy", "workers.engine"), ()),
        ("workers/engine", ("zmq", "broker", "workers.agent"), ("broker.wire.jobspec", "broker.runtime.pictures")),
        ("bench", ("workers", "http_edge"), ()),
    ],
)
def test_imports_follow_the_arrows(folder, banned, allowed):
    found = [line for line in breaches(sources(folder), banned, allowed) if not _names_an_allowed_parent(line, allowed)]
    assert found == []


def test_bench_needs_torch_only_in_programs_that_it_starts():
    programs = {"bare_loop.py", "random_model.py"}
    assert breaches([path for path in sources("bench") if path.name not in programs], ("torch", "diffusers")) == []
    names = tuple(f"bench.{name.removesuffix('.py')}" for name in programs)
    assert breaches(sources(*FOLDERS), names) == []


def _names_an_allowed_parent(line: str, allowed: tuple[str, ...]) -> bool:
    """`from broker import wire` also names `broker`; only what is taken from it counts."""
    name = line.rsplit(" ", 1)[1]
    return any(entry.startswith(name + ".") for entry in allowed) and name in ("broker", "broker.wire")


def test_only_calls_talks_to_the_broker_client():
    users = [path.name for path in sources("http_edge") if under_any(imports(path), "broker.client.client")]
    assert set(users) <= {"calls.py", "submits.py", "app.py"}


def under_any(names: frozenset[str], prefix: str) -> bool:
    return any(under(name, prefix) for name in names)


def test_api_families_never_import_each_other():
    families = {module_of(path) for path in sources("http_edge") if path.name.endswith("_api.py")}
    wrong = [
        f"{path.name} imports {name}"
        for path in sources("http_edge")
        if module_of(path) in families
        for name in imports(path)
        if any(under(name, family) for family in families - {module_of(path)})
    ]
    assert wrong == []


def test_no_pickle_and_no_asyncio_zmq():
    words = ("pickle", "dill", "cloudpickle", "zmq.asyncio", "shelve", "marshal")
    assert breaches(sources(*FOLDERS), words) == []
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources(*FOLDERS))
    for word in ("recv_pyobj", "send_pyobj"):
        assert word not in text


def test_there_is_no_circle():
    graph = {
        module_of(path): {name for name in imports(path) if name.split(".")[0] in FOLDERS} for path in sources(*FOLDERS)
    }
    graph = {module: {name for name in names if name in graph and name != module} for module, names in graph.items()}
    packages = {module_of(path) for path in sources(*FOLDERS) if path.name == "__init__.py"}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join((*trail[trail.index(module) :], module))
        if module in done:
            return
        for name in sorted(graph[module] - packages):
            visit(name, (*trail, module))
        done.add(module)

    for module in sorted(graph):
        visit(module, ())


@pytest.mark.parametrize("path", sources(*FOLDERS, "scripts"), ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_small(path):
    lines = path.read_text(encoding="utf-8").count("\n")
    assert lines <= MAX_FILE, f"{lines} lines"
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < MAX_FUNCTION, (
                f"{node.name} has {node.end_lineno - node.lineno + 1} lines"
            )


def test_imports_inside_functions_stand_in_the_registry_alone():
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sources("broker", "workers", "http_edge")
        if path.name != "registry.py"
        for function in ast.walk(tree(path))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert wrong == []


@pytest.mark.parametrize("path", [p for p in sources(*FOLDERS) if p.name == "__init__.py"], ids=str)
def test_packages_are_a_docstring(path):
    body = tree(path).body
    assert len(body) == 1
    assert ast.get_docstring(tree(path))
