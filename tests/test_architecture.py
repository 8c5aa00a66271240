"""The shape of the code: who may import whom, how long things may grow, and what may never be near a socket."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

from broker.runtime.log_actions import Action
from scripts import rooms
from scripts.rooms import imports, module_of, room_of, sources, tree

ROOT = rooms.ROOT
FOLDERS = rooms.FOLDERS
MAX_FUNCTION = 60
#: Methods and attributes of a class, beyond which it does more than one thing.
MAX_METHODS, MAX_ATTRIBUTES = 20, 12
#: Classes beyond them, and why.
LARGE = {
    "broker.core.pool.Worker": "the record of one worker: the broker's copy of its heartbeat, and the grants and requests that it"
    " has not answered. It has no rules: those are methods of Pool and functions of worker_breaker, dispatch and timers, each reading"
    " several parts of it, so that smaller records would be read together everywhere",
    "broker.core.state.State": "the core's memory. Its parts (queue, pool, deadlines, tenants, promises, ...) are classes of their own; its"
    " methods are the moves of a job, each of which changes several of these parts at once, which is why no part can make them. The final"
    " jobs kept in memory as a class of their own cost six calls a job, 3 %, for ten lines less here",
    "zoetrope.client.client.AsyncClient": "as Client, awaited",
    "zoetrope.client.client.Client": "one method an operation of the service, without state of its own: each runs a flow of Flows over the"
    " connection. Users find an operation on the one object that they made; parts of it would be names to know and no state less",
}
#: Product files that write a field of a request or of a job: declare it, or pass it on by name.
MAX_PLACES = 4
#: Fields that are written in more, and in how many; a number may only fall. Those of a request are declared again where they cross to the
#: worker (`JobSpec`), in the answer and its schema, and in the models' defaults; those of a job in its row, its view and the schema of its
#: answers.
PLACES = {
    "cache": 7,
    "committed": 5,
    "crashes": 6,
    "deadline_at": 6,
    "finished_at": 8,
    "deliveries": 6,  # of a job; and of all jobs, staged and stored
    "fps": 8,
    "gpus": 8,
    "guidance_scale": 6,
    "height": 7,
    "history": 7,
    "loras": 14,  # of a job; and of a model, its card and table, and of a key
    "max_running": 7,
    "negative_prompt": 6,
    "num_frames": 8,
    "num_inference_steps": 6,
    "num_outputs": 6,
    "pinned": 7,
    "preemptions": 7,
    "promise": 8,
    "preset": 6,  # of a job; and of a LoRA
    "previews": 5,
    "priority": 10,
    "prompt": 9,  # of a job; and what a prompt enhancer makes of it
    "recipe": 10,  # of a job; of a key, and what it may then; of the service; and in a file, as its credentials have it
    "revision": 8,  # of a job; and, in one, of a model on the hub
    "run_s": 10,
    "save_to": 5,
    "seed": 8,
    "set_aside": 5,
    "started_at": 5,
    "submission": 11,
    "submitted_at": 10,
    "width": 7,
}
#: Fields whose names are the usual words for other things too, so that counting them says nothing.
COMMON_WORDS = frozenset(
    [
        "alias",
        "attempts",
        "body",
        "errors",
        "extra",
        "kept",
        "failure",
        "fence",
        "gpus",
        "id",
        "image",
        "labels",
        "model",
        "origin",
        "output",
        "phase",
        "profile",
        "result",
        "seconds",
        "size",
        "state",
        "step",
        "stop",
        "tenant",
        "total",
        "webhook",
        "worker",
        "steps",
    ]
)


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


#: Folder -> what it may import of the other folders.
FOREIGN = {
    "broker": (),
    # The last: an operator's command asks the service as any client does.
    "workers": ("broker/wire", "broker/runtime", "broker/depot", "zoetrope/client"),
    "http_edge": ("broker/wire", "broker/runtime", "broker/client", "broker/depot"),
    "bench": (
        "broker/testing",
        "broker/wire",
        "broker/runtime",
        "broker/client",
        "broker/core",
        "broker/core/scheduling",
        "broker/shell/journal",
    ),
    # It starts the others as processes; the room that does knows what to say where they are not installed.
    "zoetrope": ("broker/runtime",),
}


def test_every_room_stands_on_a_floor():
    placed = {room for floors in rooms.FLOORS.values() for floor in floors for room in floor}
    assert {rooms.room_of(path) for path in sources(*FOLDERS)} - placed == set()


def test_arrows_lead_down_and_never_sideways():
    floor_of = {room: n for floors in rooms.FLOORS.values() for n, floor in enumerate(floors) for room in floor}
    wrong = []
    for (source, target), reasons in rooms.arrows().items():
        folder, other = source.split("/")[0], target.split("/")[0]
        if folder == other:
            good = floor_of[target] > floor_of[source]
        else:
            good = target in FOREIGN[folder]
        if not good:
            wrong.append(f"{source} -> {target}: {sorted(reasons)}")
    assert wrong == []


def test_the_stand_ins_are_for_measurements_and_tests():
    """`broker.testing` ships, and no process of the service loads it."""
    users = {path for path in sources(*FOLDERS) if under_any(imports(path), "broker.testing")}
    assert {rooms.room_of(path) for path in users} == {"bench/suites", "broker/testing"}


def test_suites_share_nothing_but_support_and_testing():
    """What several suites use lies in `tests/support` or `tests/testing`; the tests on a GPU are the engine's own, with another device."""
    wrong = []
    for path in sources("tests"):
        suite = path.relative_to(ROOT / "tests").parts[0]
        if "data" in path.parts or path.parent == ROOT / "tests":
            continue
        allowed = {suite, "support", "testing", *(("engine",) if suite == "gpu" else ())}
        if suite in ("support", "testing"):
            allowed = {"support", "testing"}
        wrong += [
            f"{path.relative_to(ROOT)} imports {name}"
            for name in sorted(imports(path, runtime=False))
            if name.startswith("tests.") and name.split(".")[1] not in allowed
        ]
    assert wrong == []


def test_no_room_reaches_itself():
    assert rooms.circles() == []


@pytest.mark.parametrize(
    ("folder", "banned", "allowed"),
    [
        ("broker", ("torch", "starlette"), ()),
        ("broker/core", ("broker",), ("broker.core", "broker.wire")),
        ("workers/agent", ("torch", "diffusers", "transformers", "numpy", "workers.engine"), ()),
        ("workers/supervisor", ("torch", "diffusers", "transformers", "numpy"), ()),
        ("workers/launchers", ("torch", "diffusers", "transformers", "numpy"), ()),
        ("workers/models", ("torch", "diffusers", "transformers", "numpy"), ()),
        ("workers/ipc", ("torch", "diffusers", "transformers", "numpy"), ()),
        ("workers/machines", ("torch", "diffusers", "transformers", "numpy"), ()),
        ("workers/rank", ("torch", "diffusers", "transformers", "numpy"), ()),
        (
            "workers/engine",
            ("zmq", "broker"),
            (
                "broker.wire.jobspec",
                "broker.wire.job_files",
                "broker.wire.loras",
                "broker.wire.recipe",
                "broker.wire.sampling",
                "broker.wire.failures",
                "broker.runtime",
            ),
        ),
        ("http_edge", ("torch", "diffusers", "transformers", "zmq"), ()),
    ],
)
def test_rooms_keep_away_from(folder, banned, allowed):
    found = [line for line in breaches(sources(folder), banned, allowed) if not _names_an_allowed_parent(line, allowed)]
    assert found == []


def test_bench_needs_torch_only_in_programs_that_it_starts():
    programs = {"bare_loop.py", "random_model.py"}
    assert breaches([path for path in sources("bench") if path.name not in programs], ("torch", "diffusers")) == []
    names = tuple(f"bench.suites.{name.removesuffix('.py')}" for name in programs)
    assert breaches(sources(*FOLDERS), names) == []


def _names_an_allowed_parent(line: str, allowed: tuple[str, ...]) -> bool:
    """`from broker import wire` also names `broker`; only what is taken from it counts."""
    name = line.rsplit(" ", 1)[1]
    return any(entry.startswith(name + ".") for entry in allowed)


def test_only_jobs_talks_to_the_broker_client():
    """The composition root makes the client; `base` maps its errors to answers."""
    users = {rooms.room_of(path) for path in sources("http_edge") if under_any(imports(path), "broker.client.client")}
    assert users <= {"http_edge", "http_edge/jobs"}
    errors = {rooms.room_of(path) for path in sources("http_edge") if under_any(imports(path), "broker.client.errors")}
    assert errors <= {"http_edge", "http_edge/jobs", "http_edge/base"}


def under_any(names: frozenset[str], prefix: str) -> bool:
    return any(under(name, prefix) for name in names)


def test_torch_is_in_the_engine_alone():
    outside = [path for path in sources("broker", "workers", "http_edge") if "workers/engine" not in path.as_posix()]
    assert breaches(outside, ("torch", "diffusers", "transformers", "accelerate")) == []


def test_ray_is_in_its_launcher_alone():
    """Beside it in the adapter by which other queues are measured. Nothing imports the launcher: it is loaded by its name."""
    launcher = ROOT / "workers" / "launchers" / "ray"
    rest = [path for path in sources(*FOLDERS) if path.parent != launcher and path.name != "peer_ray.py"]
    assert breaches(rest, ("ray", "workers.launchers.ray")) == []


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
def test_functions_stay_small(path):
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < MAX_FUNCTION, (
                f"{node.name} has {node.end_lineno - node.lineno + 1} lines"
            )


def attributes(node: ast.ClassDef) -> set[str]:
    """The names that a class assigns on `self`."""
    return {
        one.attr
        for one in ast.walk(node)
        if isinstance(one, ast.Attribute)
        and isinstance(one.ctx, ast.Store)
        and isinstance(one.value, ast.Name)
        and one.value.id == "self"
    }


def test_classes_do_one_thing():
    large = {}
    for path in sources(*FOLDERS):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ClassDef):
                methods = sum(isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef) for one in node.body)
                if methods > MAX_METHODS or len(attributes(node)) > MAX_ATTRIBUTES:
                    large[f"{module_of(path)}.{node.name}"] = f"{methods} methods, {len(attributes(node))} attributes"
    assert {name: size for name, size in large.items() if name not in LARGE} == {}
    assert set(LARGE) - set(large) == set(), "small enough by now: remove them from LARGE"


def test_a_field_is_written_in_few_places():
    counts = {field: rooms.places(field) for struct in rooms.COUNTED for field in rooms.fields(struct)}
    wrong = {
        field: found
        for field, found in counts.items()
        if field not in COMMON_WORDS and len(found) > PLACES.get(field, MAX_PLACES)
    }
    assert wrong == {}
    assert (PLACES.keys() | COMMON_WORDS) - counts.keys() == set(), "no such field: remove it"


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


def test_the_client_needs_little():
    """`zoetrope` is installed on machines that only ask a service: what it imports is in the base install, or is its own."""
    base = ("zoetrope", "httpx", "msgspec", "typer", "rich")
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sources("zoetrope")
        # That room starts a service, where the extra `serve` is installed, and says so where it is not.
        if room_of(path) != "zoetrope/serving"
        for name in sorted(imports(path))
        if not under(name, *base) and name.split(".")[0] not in sys.stdlib_module_names
    ]
    assert wrong == []


#: Words by which a docstring would begin with a riddle instead of a verb ("Return the reason why ...") or a noun ("Reason why ...").
RIDDLES = frozenset(
    [
        "what",
        "who",
        "whose",
        "whom",
        "whoever",
        "how",
        "when",
        "where",
        "why",
        "somebody",
        "something",
        "nobody",
        "everyone",
        "everything",
    ]
)


def test_docstrings_begin_with_a_verb_or_a_noun():
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    wrong = [
        f"{path.relative_to(ROOT)}: {text.splitlines()[0]}"
        for path in sources("broker", "workers", "http_edge", "zoetrope")
        for node in ast.walk(tree(path))
        if isinstance(node, kinds) and (text := ast.get_docstring(node))
        if text.split()[0].lower().rstrip(",.:") in RIDDLES
    ]
    assert wrong == [], "begin them with a verb or a noun"


#: What others install and import: its names are those of the package.
FACES = [ROOT / "zoetrope/__init__.py", ROOT / "broker/testing/__init__.py"]


@pytest.mark.parametrize("path", [p for p in sources(*FOLDERS) if p.name == "__init__.py" and p not in FACES], ids=str)
def test_packages_are_a_docstring(path):
    body = tree(path).body
    assert len(body) == 1
    assert ast.get_docstring(tree(path))


def test_log_actions_are_those_of_the_enum():
    """A word of the log is a member, so that the table in docs/operations.md has all of them; and none is there for nothing."""
    text = {path: path.read_text(encoding="utf-8") for path in sources("broker", "workers", "http_edge")}
    literal = re.compile(r'"action": f?"|\baction=f?"(?!store_)')
    assert [path.name for path, code in text.items() if literal.search(code)] == []
    code = "\n".join(code for path, code in text.items() if path.name != "log_actions.py")
    # Made of a word of the core's, or of the kind of a result.
    made = {
        "WORKER_TRIPPED",
        "WORKER_RESTORED",
        "DEPOT_FULL",
        "DEPOT_ROOM",
        "DRAIN_REQUESTED",
        "UNDRAIN_REQUESTED",
        "ATTEMPT_FINISHED",
        "ATTEMPT_FAILED",
        "ATTEMPT_CANCELLED",
    }
    assert [action.name for action in Action if f"Action.{action.name}" not in code and action.name not in made] == []
