"""Generates docs/python.md: the public names of the Python client, with signatures and docstrings."""

import importlib
import inspect
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any, Final

PACKAGE: Final = "campaign_membership_client"
MODULES: Final = ("", ".events", ".table_load", ".relay", ".reading")
"""The modules that users import, in the order of the page."""
TITLE: Final = """\
# The Python client, name by name

Generated from the code by `make reference`; do not edit. [The client's page](../client/README.md) shows how the parts
work together.
"""


def page() -> str:
    """Return the page."""
    seen: set[int] = set()
    modules = [importlib.import_module(f"{PACKAGE}{name}") for name in MODULES]
    return "\n".join([TITLE, *(_module(module, seen) for module in modules)])


def _module(module: ModuleType, seen: set[int]) -> str:
    parts = [f"## {module.__name__}\n", f"{_text(module)}\n"]
    for name in _public(module):
        member = getattr(module, name)
        if id(member) not in seen and (inspect.isclass(member) or inspect.isfunction(member)):
            seen.add(id(member))
            parts += _entry(name, member)
    return "\n".join(parts)


def _public(module: ModuleType) -> list[str]:
    """Return the names that a module exports: `__all__`, or else what it defines."""
    listed = getattr(module, "__all__", None)
    if listed is not None:
        return sorted(listed)
    own = (name for name, member in vars(module).items() if getattr(member, "__module__", "") == module.__name__)
    return sorted(name for name in own if not name.startswith("_"))


def _entry(name: str, member: Any) -> Iterator[str]:  # noqa: ANN401 - a class or a function
    yield f"### {name}\n"
    yield f"{_code(_signature(name, member))}\n"
    yield f"{_text(member)}\n"
    if inspect.isclass(member):
        for method_name, method in _methods(member):
            yield f"{_code(_signature(f'{name}.{method_name}', method))}\n"
            yield f"{_text(method)}\n"


def _methods(kind: type) -> Iterator[tuple[str, Any]]:
    """Yield the public methods and properties that a class defines, in the order of its code."""
    for name, member in vars(kind).items():
        function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
        if not name.startswith("_") and inspect.isfunction(function) and function.__doc__:
            yield name, function


def _signature(name: str, member: Any) -> str:  # noqa: ANN401 - the same
    if inspect.isclass(member) and issubclass(member, Exception):
        return f"class {name}({member.__bases__[0].__name__})"
    prefix = "class " if inspect.isclass(member) else "async def " if inspect.iscoroutinefunction(member) else "def "
    try:
        signature = str(inspect.signature(member))
    except ValueError:
        signature = "(...)"
    return prefix + name + _plain(signature)


def _plain(signature: str) -> str:
    """Return a signature without the paths and limits of its types, and without `self`."""
    if "P.kwargs" in signature:  # it takes what another function takes; the docstring says which
        signature = "(...)" + signature.rpartition(")")[2]
    signature = re.sub(r"\bAnnotated\[(\w+), Meta\(.*?\)\]", r"\1", signature)
    signature = re.sub(r"<class '([\w.]+)'>", r"\1", signature)
    signature = re.sub(r"\b(?:[a-z_]+\.)+(\w+)", r"\1", signature).replace("'", "")
    signature = re.sub(r": \*(\w+)", r": Unpack[\1]", signature)  # as Python 3.12 and later print it
    signature = re.sub(r"<[^<>]*>", "...", signature)
    return re.sub(r"^\(self(?:, )?", "(", signature)


def _code(text: str) -> str:
    return f"```py\n{text}\n```"


def _text(member: Any) -> str:  # noqa: ANN401 - anything with a docstring
    text = inspect.getdoc(member) or ""
    return re.sub(r"\n(?=\S)", " ", re.sub(r"\n\s*\n", "\n\n", text)).replace("\n ", "\n\n")
