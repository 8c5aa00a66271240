"""What the code may not contain at all."""

from __future__ import annotations

import ast

from scripts.rooms import FOLDERS, ROOT, sources, tree

#: They run what they are given.
FORBIDDEN_CALLS = frozenset(
    ("eval", "exec", "os.system", "os.popen", "pickle.loads", "pickle.load", "yaml.load", "numpy.load", "np.load")
)


def calls(path) -> list[tuple[ast.Call, str]]:
    return [(node, ast.unparse(node.func)) for node in ast.walk(tree(path)) if isinstance(node, ast.Call)]


def test_nothing_runs_or_unpickles_what_comes_in():
    wrong = [
        f"{path.relative_to(ROOT)}:{call.lineno} {name}"
        for path in sources(*FOLDERS, "scripts")
        for call, name in calls(path)
        if name in FORBIDDEN_CALLS
        or any(word.arg == "shell" and ast.unparse(word.value) == "True" for word in call.keywords)
        or (name == "torch.load" and "weights_only=True" not in ast.unparse(call))
    ]
    assert wrong == []


def test_models_bring_code_only_where_their_operator_says_so():
    """Whatever may run what lies beside a model's weights is told by the setting of the service's own table, and by nothing else."""
    reported = []
    for path in sources(*FOLDERS):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
                reported.append(ast.unparse(node.value))
            elif isinstance(node, ast.Dict):
                keys = [key.value if isinstance(key, ast.Constant) else None for key in node.keys]
                reported += [ast.unparse(v) for k, v in zip(keys, node.values, strict=True) if k == "trust_remote_code"]
    assert set(reported) == {"setup.trust_remote_code", "settings.trust_remote_code"}


def test_tempnam_and_world_writable_modes_do_not_occur():
    wrong = [
        f"{path.relative_to(ROOT)}:{call.lineno} {name}"
        for path in sources(*FOLDERS)
        for call, name in calls(path)
        if name in ("tempfile.mktemp", "os.tempnam") or (name.endswith("chmod") and "0o7" in ast.unparse(call))
    ]
    assert wrong == []
