"""The hash of code: a module and all that it imports from its own package, read from the sources, never executed.

Comments, docstrings and layout do not count, so a better explanation makes no result stale.
"""

import ast
import functools
import hashlib
import importlib.util
from pathlib import Path

DATA = (".json", ".toml", ".yaml", ".yml")


def module_hash(*names: str) -> str:
    """Hash of modules by name, of the modules of their packages that they import, and of data files that these name.

    Raises ValueError where a name is no module whose source can be read.
    """
    return _digest(files(*names))


def files(*names: str) -> list[Path]:
    """The files that `module_hash` is made of."""
    found, waiting = {}, list(names)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        path = found[name] = _source(name)
        if path is None:
            if name in names:
                raise ValueError(f"there is no source of a module {name!r}: expected the name of an importable module")
            continue  # a name imported from a module, rather than a module
        imports, data = _named(path, path.stat().st_mtime_ns, name)
        waiting += imports
        found |= {place: place for place in (path.with_name(word) for word in data) if place.is_file()}
    return [path for path in found.values() if path]


def package_hash(name: str = "lib") -> str:
    """Hash of every module and data file of a package."""
    path = _source(name)
    if path is None or path.name != "__init__.py":
        raise ValueError(f"there is no package {name!r}: expected the name of a folder with an __init__.py")
    return _digest(path for path in path.parent.rglob("*") if path.suffix in (".py", *DATA))


def imported(text: str, package: str = "lib") -> list[str]:
    """Names of the package's modules that a piece of source, such as a chapter's cells, imports itself."""
    return [name for name in _imports(ast.parse(text), package, parent="") if _source(name)]


@functools.lru_cache(maxsize=512)
def _named(path, modified, name):
    """What a module's source names: modules of its own package, those above it included, and data files."""
    tree = _parse(path, modified)
    above = name.rpartition(".")[0]
    modules = _imports(tree, name.partition(".")[0], parent=name if path.name == "__init__.py" else above)
    words = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return [*modules, *([above] if above else [])], [word for word in words if word.endswith(DATA) and "/" not in word]


def _imports(tree, package, parent):
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = parent.split(".")[: len(parent.split(".")) - node.level + 1] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            names += [origin, *(f"{origin}.{alias.name}" for alias in node.names)]
    return sorted({name for name in names if name.partition(".")[0] == package})


def _source(name):
    """Path of a module's source; None for what is no module."""
    top, *rest = name.split(".")
    try:
        spec = importlib.util.find_spec(top)  # of a submodule it would import the packages above
    except ValueError:  # __main__ has none
        return None
    if spec is None or not (spec.submodule_search_locations or str(spec.origin).endswith(".py")):
        return None
    # A folder without __init__.py is a package too, whose own source is empty.
    folders = spec.submodule_search_locations
    path = Path(list(folders)[0], "__init__.py") if folders else Path(spec.origin)
    for part in rest:
        inside = path.parent / part
        found = [place for place in (inside / "__init__.py", inside.with_name(f"{part}.py")) if place.is_file()]
        if path.name != "__init__.py" or not (found or inside.is_dir()):
            return None
        path = found[0] if found else inside / "__init__.py"
    return path if path.is_file() else None


def _digest(paths):
    # The order is of hashes, not of paths: a checkout elsewhere has the same code.
    parts = sorted(_content(path, path.stat().st_mtime_ns) for path in set(paths))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@functools.lru_cache(maxsize=512)
def _content(path, modified):
    content = ast.unparse(_parse(path, modified)).encode() if path.suffix == ".py" else path.read_bytes()
    return path.name + hashlib.sha256(content).hexdigest()


@functools.lru_cache(maxsize=512)
def _parse(path, modified):
    """Syntax tree without docstrings, read again when the file has changed."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                node.body[0] = ast.Pass()
    return tree
