"""A network's own code: which local files it is, and how exactly those files are run, wherever they lie.

The files are run under a name that is derived from their digest. What another process, another workspace or an edited
file imported under the plain name is never mistaken for them.
"""

import ast
import builtins
import hashlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

_OURS: Final = ("cli", "expunge", "flows", "tasks")  # a workspace may be a checkout of this repository
PREFIX: Final = "expunge_own_"


def read_sources(name: str, search: Path) -> dict[str, bytes]:
    """Files of a module and of the local modules that it imports, directly or not.

    Import statements are followed wherever they stand in a file. Installed libraries are no part of it.

    Args:
        name: Dotted, of the module.
        search: Folder where local modules lie.

    Returns:
        Contents by path from there, such as ``layers/rbf.py``; none if the module does not lie there.

    Raises:
        SyntaxError: If a file is not Python.
    """
    found: dict[str, bytes] = {}
    waiting = [name]
    seen: set[str] = set()
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        for path in _files(module, search):
            if path in found:
                continue
            found[path] = (search / path).read_bytes()
            package = path.removesuffix("/__init__.py").removesuffix(".py").split("/")
            if not path.endswith("/__init__.py"):
                package.pop()
            waiting += _imported(ast.parse(found[path]), package, search)
    return dict(sorted(found.items()))


def _files(module: str, search: Path) -> list[str]:
    """The module's file, and those of the packages that it lies in."""
    parts = module.split(".")
    if parts[0] in _OURS:
        return []
    tries = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
    return [
        next(name for name in (f"{path}/__init__.py", f"{path}.py") if (search / name).is_file())
        for path in tries
        if (search / f"{path}/__init__.py").is_file() or (search / f"{path}.py").is_file()
    ]


def _imported(tree: ast.AST, package: Sequence[str], search: Path) -> Iterator[str]:
    """Dotted names that a file imports; a name that is no module finds no file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = list(package[: len(package) - node.level + 1]) if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            if base:
                yield base
            for alias in node.names:
                if alias.name == "*":
                    inside = search / base.replace(".", "/")
                    yield from (f"{base}.{path.stem}" for path in sorted(inside.glob("*.py")))
                elif base:
                    yield f"{base}.{alias.name}"
                else:
                    yield alias.name


def load_factory(name: str, code: Mapping[str, bytes], place: Path) -> Callable[..., Any]:
    """Run the code and take the function.

    Args:
        name: ``module:factory``.
        code: From :func:`read_sources`.
        place: Folder that the code is told it lies in (``__file__``).

    Returns:
        The factory.

    Raises:
        ImportError: If there is no such module.
        AttributeError: If it has no such function.
    """
    module, _, factory = name.partition(":")
    made: Callable[..., Any] = getattr(importlib.import_module(f"{_root(code, place)}.{module}"), factory)
    return made


def loaded_modules(code: Mapping[str, bytes], place: Path) -> list[types.ModuleType]:
    """Modules of the code that have been run in this process.

    Args:
        code: The code.
        place: As for :func:`load_factory`.

    Returns:
        The modules.
    """
    root = f"{_root(code, place)}."
    return [module for name, module in list(sys.modules.items()) if name.startswith(root)]


def numbers_of(source: bytes) -> list[float]:
    """Numbers that are written in a file, in order.

    Args:
        source: Python.

    Returns:
        The literals, negative ones as such.

    Example:
        >>> numbers_of(b"x = [1.5, -2]")
        [1.5, -2.0]
    """
    tree = ast.parse(source)
    negative = {
        id(node.operand)
        for node in ast.walk(tree)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub)
    }
    literals = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, int | float)
        and not isinstance(node.value, bool)
        and abs(node.value) < sys.float_info.max
    ]
    literals.sort(key=lambda node: (node.lineno, node.col_offset))
    return [
        -float(node.value) if id(node) in negative else float(node.value)  # type: ignore[arg-type]
        for node in literals
    ]


def _root(code: Mapping[str, bytes], place: Path) -> str:
    """Name of a package that has this code, and nothing else, below it."""
    content = hashlib.sha256(str(place).encode())
    for name, source in sorted(code.items()):
        content.update(f"\n{name} {hashlib.sha256(source).hexdigest()}".encode())
    root = f"{PREFIX}{content.hexdigest()[:32]}"
    if root not in sys.modules:
        package = types.ModuleType(root, "Code of a network.")
        package.__path__ = []
        _FINDER.known[root] = (dict(code), place)
        if _FINDER not in sys.meta_path:
            sys.meta_path.insert(0, _FINDER)
        sys.modules[root] = package
    return root


class _Finder(importlib.abc.MetaPathFinder):
    """Finds modules in code that lies in memory."""

    def __init__(self) -> None:
        self.known: dict[str, tuple[Mapping[str, bytes], Path]] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Spec of a module below one of our roots."""
        root, _, name = fullname.partition(".")
        if root not in self.known or not name:
            return None
        code, place = self.known[root]
        path_in = name.replace(".", "/")
        file = next((one for one in (f"{path_in}/__init__.py", f"{path_in}.py") if one in code), None)
        if file is None and not any(one.startswith(f"{path_in}/") for one in code):
            return None
        origin = str(place / (file or path_in))
        loader = _Loader(root, code, b"" if file is None else code[file], origin)
        spec = importlib.machinery.ModuleSpec(
            fullname, loader, origin=origin, is_package=file is None or file.endswith("/__init__.py")
        )
        spec.has_location = file is not None
        return spec


class _Loader(importlib.abc.Loader):
    """Runs one file; its absolute imports of local modules are of the same code."""

    def __init__(self, root: str, code: Mapping[str, bytes], source: bytes, origin: str) -> None:
        self._root, self._source, self._origin = root, source, origin
        self._local = {name.split("/")[0].removesuffix(".py") for name in code}

    def exec_module(self, module: types.ModuleType) -> None:
        """Run the file."""
        space = vars(module)
        space["__builtins__"] = {**vars(builtins), "__import__": self._import}
        exec(compile(self._source, self._origin, "exec", dont_inherit=True), space)

    def _import(
        self,
        name: str,
        globals: Mapping[str, Any] | None = None,
        locals: Mapping[str, Any] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> types.ModuleType:
        top = name.partition(".")[0]
        if level or top not in self._local:
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        there = f"{self._root}.{name}"
        if fromlist:
            return builtins.__import__(there, globals, locals, fromlist, 0)
        importlib.import_module(there)
        return sys.modules[f"{self._root}.{top}"]


_FINDER: Final = _Finder()
