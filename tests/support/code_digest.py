"""Digests definitions by content: comments, docstrings, local names, moves and renames do not change a digest.

A reference to a definition of this project counts as that definition's content, independent of its module and name.
Attributes and keyword arguments count by name, because fields of events and rows are part of the code's meaning.
"""

import ast
import hashlib
import importlib.util
from functools import cache
from pathlib import Path
from typing import Final

PACKAGE: Final = "projections"
CYCLE: Final = "a definition that is being digested"


class Module:
    """A module's top-level definitions, and what its imports refer to."""

    def __init__(self, name: str) -> None:
        self.definitions: dict[str, ast.stmt] = {}
        self.imports: dict[str, str] = {}
        for statement in ast.parse(_path(name).read_text(encoding="utf-8")).body:
            self._add(statement)

    def _add(self, statement: ast.stmt) -> None:
        match statement:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                self.definitions[statement.name] = statement
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                self.definitions[name] = statement
            case ast.ImportFrom(module=str(module)):
                self.imports |= {alias.asname or alias.name: f"{module}.{alias.name}" for alias in statement.names}
            case ast.Import():
                self.imports |= {alias.asname or alias.name: alias.name for alias in statement.names}


@cache
def module(name: str) -> Module:
    """Return a module of this project, parsed once."""
    return Module(name)


@cache
def digest_of(module_name: str, name: str, within: frozenset[tuple[str, str]] = frozenset()) -> str:
    """Return the digest of a definition, including every definition of this project that it refers to."""
    key = (module_name, name)
    if key in within:
        return CYCLE
    definition = module(module_name).definitions[name]
    normal = _Normal(module_name, within | {key}, name)
    text = ast.dump(normal.visit(ast.parse(ast.unparse(definition)).body[0]))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


class _Normal(ast.NodeTransformer):
    """Replaces each name by what it refers to: a running number, a digest, or an external dotted name."""

    def __init__(self, module_name: str, within: frozenset[tuple[str, str]], own_name: str) -> None:
        self._module_name = module_name
        self._within = within
        self._numbers: dict[str, str] = {own_name: "itself"}

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return self._definition(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return self._definition(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        return self._definition(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if isinstance(node.target, ast.Name) and node.target.id not in self._numbers:
            self._numbers[node.target.id] = f"field {node.target.id}"
        return self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.Name(self._meaning(node.id), node.ctx)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        return ast.arg(self._meaning(node.arg), node.annotation and self.visit(node.annotation))

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        if isinstance(node.value, ast.Name):
            target = module(self._module_name).imports.get(node.value.id, "")
            if digest := self._project_digest(target, node.attr):
                return ast.Name(digest, node.ctx)
        return ast.Attribute(self.visit(node.value), node.attr, node.ctx)

    def _definition(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> ast.AST:
        first = node.body[0]
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            node.body = node.body[1:] or [ast.Pass()]
        node.body = [statement for statement in node.body if not _is_docstring(statement)] or [ast.Pass()]
        node.name = self._numbers.get(node.name, node.name)
        return self.generic_visit(node)

    def _meaning(self, name: str) -> str:
        if name in self._numbers:
            return self._numbers[name]
        own_module = module(self._module_name)
        if name in own_module.definitions:
            return digest_of(self._module_name, name, self._within)
        if name in own_module.imports:
            package, _, attribute = own_module.imports[name].rpartition(".")
            return self._project_digest(package, attribute) or own_module.imports[name]
        return self._numbers.setdefault(name, f"local {len(self._numbers)}")

    def _project_digest(self, module_name: str, name: str) -> str | None:
        if not _is_module(module_name) or name not in module(module_name).definitions:
            return None
        return digest_of(module_name, name, self._within)


@cache
def _is_module(name: str) -> bool:
    """Return whether a dotted name is a module of this project, rather than a class in one."""
    if not name.startswith(PACKAGE):
        return False
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def _is_docstring(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _path(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin)
