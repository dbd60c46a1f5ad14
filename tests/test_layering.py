"""Who may import whom: channels <- runtime <- dagc. Read from the sources, so that nothing is imported to find out."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
#: Package -> what it may import of our own.
ALLOWED = {"channels": {"channels"}, "runtime": {"channels", "runtime"}, "dagc": {"channels", "runtime", "dagc"}}
#: What dagc may know of runtime: the contract, not an implementation.
PARTS = (
    "engine",
    "calls",
    "functions",
    "errors",
    "ids",
    "current",
    "refs",
    "preload",
    "session",
    "tensor_transport",
    "timeouts",
    "unsendable",
)
CONTRACT = {"runtime", *(f"runtime.{part}" for part in PARTS)}
#: A worker's first file: it cannot import us before it has set sys.path, which it is told when it runs.
BOOT = "runtime.embedded.boot"
GENERATED = ("_pb2", "_pb2_grpc")


@dataclass(frozen=True)
class Import:
    """Of one of our modules by another."""

    importer: str
    imported: str
    line: int
    #: Inside a function or a method.
    local: bool
    #: Under `if TYPE_CHECKING`: not there when the program runs.
    typing: bool

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.imported}"


def sources() -> dict[str, ast.Module]:
    """Module -> its syntax tree. `runtime/__init__.py` is the module `runtime`."""
    found = {}
    for package in ALLOWED:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            if not parts[-1].endswith(GENERATED):
                name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
                found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def public_names(package: str) -> set[str]:
    """What `__all__` of a package's `__init__.py` says."""
    path = ROOT.joinpath(*package.split("."), "__init__.py")
    if package.partition(".")[0] not in ALLOWED or not path.exists():
        return set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


def imports_of(module: str, tree: ast.Module, known: set[str]) -> Iterator[Import]:
    stack: list[tuple[ast.AST, bool, bool]] = [(tree, False, False)]
    while stack:
        node, local, typing = stack.pop()
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            # `from runtime import current, get` imports the module runtime.current, and of runtime itself only `get`;
            # `remote` is both a module and a public name of the package, which wins.
            modules = {alias.name for alias in node.names if f"{base}.{alias.name}" in known} - public_names(base)
            names = [f"{base}.{alias.name}" if alias.name in modules else base for alias in node.names]
        else:
            names = []
        for name in dict.fromkeys(names):
            if name.partition(".")[0] in ALLOWED:
                yield Import(module, name, node.lineno, local, typing)  # type: ignore[attr-defined]
        local = local or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for child in ast.iter_child_nodes(node):
            guarded = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) and child in node.body
            stack.append((child, local, typing or guarded))


TREES = sources()
#: The C extension and generated code are modules too, though there is nothing to read in them.
OPAQUE = {"channels._ring", "runtime.embedded.control_pb2", "runtime.embedded.control_pb2_grpc"}
IMPORTS = [found for module, tree in TREES.items() for found in imports_of(module, tree, OPAQUE | set(TREES))]


def test_the_test_sees_the_imports() -> None:
    seen = {(found.importer, found.imported, found.typing) for found in IMPORTS}
    assert ("runtime.errors", "channels.errors", False) in seen
    assert ("dagc.planner", "dagc.passes.simulate", False) in seen
    assert ("runtime.current", "runtime.engine", True) in seen


def test_no_layer_imports_a_higher_one() -> None:
    def package(module: str) -> str:
        return module.partition(".")[0]

    assert [str(i) for i in IMPORTS if package(i.imported) not in ALLOWED[package(i.importer)]] == []


def test_dagc_knows_only_the_contract_of_the_runtime() -> None:
    outside = [i for i in IMPORTS if i.importer.startswith("dagc") and i.imported.startswith("runtime")]
    assert [str(i) for i in outside if i.imported not in CONTRACT] == []


def test_no_function_imports_our_own_packages() -> None:
    assert [str(i) for i in IMPORTS if i.local and i.importer != BOOT] == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    needs: dict[str, set[str]] = {module: set() for module in TREES}
    for found in IMPORTS:
        if not found.typing and found.imported in needs:
            needs[found.importer].add(found.imported)
    while leaves := [module for module, used in needs.items() if not used & set(needs)]:
        for module in leaves:
            del needs[module]
    circle = {module: sorted(used & set(needs)) for module, used in needs.items()}
    assert circle == {}, "these import each other, or are imported by those that do"


def test_every_package_is_in_the_wheel() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = ast.literal_eval(text[text.index("\npackages = ") :].split("=", 1)[1].split("]", 1)[0].strip() + "]")
    found = {
        ".".join(path.parent.relative_to(ROOT).parts) for tree in ALLOWED for path in (ROOT / tree).rglob("__init__.py")
    }
    assert set(listed) == found
