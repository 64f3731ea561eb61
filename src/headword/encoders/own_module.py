"""A classifier of the user's own by name: "module:PACKAGE.MODULE:FACTORY" or "module:FILE.py:FACTORY".

This is the only place where headword imports code that is not its own or a library's. `resolve_vision` is
called on what a user typed or passed, never on what a file says: a saved model's folder may hold such a name,
to be shown.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from headword.encoders.joint_vision import KIND, SEPARATOR
from headword.encoders.vision import Labels, Vision, VisionSource
from headword.encoders.vision_sources import from_module
from headword.errors import HeadwordError, near
from headword.files import expand
from headword.head.names import class_names

PREFIX = "module:"
_PARTS = ("module", "transform", "class_names", "input_size")


def resolve_vision(vision: Vision) -> Vision:
    """What a user gave, with the names of own modules replaced by what they stand for.

    FACTORY is called without arguments if it can be called, and stands for itself if not. What comes is a
    tuple `(module, transform, class_names)`, a mapping with these names and perhaps `input_size`, or an
    `nn.Module` that may have them as attributes. The module maps `[N, 3, H, W]` to class scores; the
    transform makes a float `[3, H, W]` of an RGB image, and may be missing where timm built the module; the
    class names are a list or a file, and may be missing where they are given otherwise. Several names with
    " + " between them are joined (docs/joint.md).

    Raises:
        HeadwordError: if there is no such file, module or attribute, or it fails, or it makes something else.
    """
    if isinstance(vision, list | tuple):
        return [resolve_vision(one) for one in vision]  # type: ignore[misc]
    if not isinstance(vision, str):
        return vision
    names = vision.removeprefix(f"{KIND}:").split(SEPARATOR)
    if len(names) > 1 and any(name.startswith(PREFIX) for name in names):
        return [resolve_vision(name) for name in names]  # type: ignore[misc]
    return _source(vision) if vision.startswith(PREFIX) else vision


def _source(name: str) -> VisionSource:
    place, colon, attribute = name.removeprefix(PREFIX).rpartition(":")
    if not (colon and place and attribute):
        raise HeadwordError(
            f"{name} names no factory; write module:FILE.py:FACTORY or module:PACKAGE.MODULE:FACTORY"
        )
    parts = _parts(name, _product(name, _imported(name, place), attribute))
    source = from_module(parts["module"], parts.get("transform"), parts.get("input_size"))
    source.id = f"{place}:{attribute}"
    if parts.get("class_names") is not None:
        source.labels = Labels(class_names(parts["class_names"]), "the module's own")
    return source


def _imported(name: str, place: str) -> ModuleType:
    """A package's module, or a file, which can import what lies beside it, as by `python FILE.py`."""
    is_file = place.endswith(".py") or "/" in place or os.sep in place
    file = expand(place).resolve()
    if is_file and not file.is_file():
        raise HeadwordError(f"{name}: there is no file {file}")
    beside = str(file.parent if is_file else Path.cwd())
    sys.path.insert(0, beside)
    try:
        with _own_errors(f"{name}: importing {file if is_file else place} fails"):
            if not is_file:
                return importlib.import_module(place)
            spec = importlib.util.spec_from_file_location(f"headword_own_{file.stem}", file)
            if spec is None or spec.loader is None:
                raise HeadwordError(f"{name}: {file} is no Python file")
            module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return module
    finally:
        sys.path.remove(beside)


@contextmanager
def _own_errors(what: str) -> Iterator[None]:
    """An error of the user's code in one line, with the place in it."""
    try:
        yield
    except HeadwordError:
        raise
    except (Exception, SystemExit) as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        reason = " ".join(str(error).split()) or "no message"
        where = f" ({Path(last.filename).name}:{last.lineno})"
        raise HeadwordError(f"{what}: {type(error).__name__}: {reason}{where}") from error


def _product(name: str, module: ModuleType, attribute: str) -> Any:
    """What the factory makes; what cannot be called stands for itself."""
    value: Any = module
    for part in attribute.split("."):
        if not hasattr(value, part):
            hint = near(part, [known for known in vars(value) if not known.startswith("_")])
            raise HeadwordError(f"{name}: {getattr(value, '__name__', attribute)} has no {part!r}{hint}")
        value = getattr(value, part)
    if isinstance(value, nn.Module) or not callable(value):
        return value
    with _own_errors(f"{name}: {attribute}() fails"):
        return value()


def _parts(name: str, product: Any) -> dict[str, Any]:
    parts: dict[str, Any] = {}
    if isinstance(product, nn.Module):
        parts = {"module": product, **{part: getattr(product, part, None) for part in _PARTS[1:]}}
    elif isinstance(product, tuple) and len(product) <= 3:
        parts = dict(zip(_PARTS, product, strict=False))
    elif isinstance(product, Mapping) and set(product) <= set(_PARTS):
        parts = dict(product)
    if not isinstance(parts.get("module"), nn.Module):
        keys = isinstance(product, Mapping) and f"keys {', '.join(map(str, product))}"
        raise HeadwordError(
            f"{name} makes {keys or type(product).__name__}; it must make (module, transform, class_names), "
            f"a dict of {', '.join(_PARTS)}, or an nn.Module"
        )
    return parts
