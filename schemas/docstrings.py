"""The descriptions of fields: the docstrings below them in the source.

Pydantic's `use_attribute_docstrings` reads them while a class is created, which would add a second to the start of each
process. Only the OpenAPI document needs them, so they are read when it is made.
"""

import ast
import inspect
import sys
from collections.abc import Iterator, Mapping
from functools import cache

from pydantic import BaseModel


def of_field(model: type[BaseModel], name: str) -> str | None:
    """The docstring of a field, from the class that declares it; None if it has none."""
    for base in model.__mro__:
        if name in inspect.get_annotations(base):
            return _of_module(base.__module__).get((base.__name__, name))
    return None


@cache
def _of_module(module: str) -> Mapping[tuple[str, str], str]:
    """The docstrings of the fields in a module, by class and field."""
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    classes = (node for node in tree.body if isinstance(node, ast.ClassDef))
    return {(node.name, name): docstring for node in classes for name, docstring in _of_class(node)}


def _of_class(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for statement, following in zip(node.body, node.body[1:], strict=False):
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            yield statement.target.id, " ".join(str(following.value.value).split())
