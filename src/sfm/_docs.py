"""Docstring parts that several functions share."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TypeVar

F = TypeVar("F", bound=Callable[..., object])

LAYER = """\
layer
    Layer of counts to read instead of `adata.X`."""

USE_RAW = """\
use_raw
    Read `adata.raw` instead of `adata.X`. Cannot be combined with `layer`."""

GENE_SYMBOLS = """\
gene_symbols
    Column of `adata.var` (of `adata.raw.var` with `use_raw`) that holds gene symbols or Ensembl ids, used instead
    of `adata.var_names`."""

COPY = """\
copy
    Work on a copy of `adata` and return it, instead of writing into `adata`."""

MINIBATCH = """\
input_ids
    Token ids, shape `(cells, tokens)`.
attention_mask
    One where a token stands, zero at padding, same shape.
values
    Expression values, same shape, for models with a value embedding."""

INPUT = f"{LAYER}\n{USE_RAW}\n{GENE_SYMBOLS}"


def doc_params(**parts: str) -> Callable[[F], F]:
    """Fill `{name}` placeholders of a docstring, indented as they stand."""

    def decorate(function: F) -> F:
        lines = []
        for line in inspect.cleandoc(function.__doc__ or "").splitlines():
            name = line.strip().removeprefix("{").removesuffix("}")
            indent = line[: len(line) - len(line.lstrip())]
            known = line.strip() == f"{{{name}}}" and name in parts
            lines += [indent + part for part in parts[name].splitlines()] if known else [line]
        function.__doc__ = "\n".join(lines)
        return function

    return decorate
