"""The mappings between a text encoder's space and an image encoder's, one file each.

To add one, write a subclass of `Aligner` in a file of its own and name it in `ALIGNERS`.
"""

from __future__ import annotations

import difflib
import inspect
from typing import Any

from headword.aligners.attention import PrototypeAttention
from headword.aligners.base import Aligner
from headword.aligners.cca import CCA
from headword.aligners.identity import Identity
from headword.aligners.joint import JointKernelRidge
from headword.aligners.kernel import KernelRidge
from headword.aligners.leave_out import LeftOut, leave_out
from headword.aligners.linear import Linear
from headword.aligners.mlp import MLP
from headword.aligners.procrustes import Procrustes
from headword.aligners.ridge import Ridge
from headword.errors import HeadwordError

__all__ = [
    "ALIGNERS",
    "CCA",
    "MLP",
    "Aligner",
    "Identity",
    "JointKernelRidge",
    "KernelRidge",
    "LeftOut",
    "Linear",
    "Procrustes",
    "PrototypeAttention",
    "Ridge",
    "leave_out",
    "make_aligner",
]

ALIGNERS: dict[str, type[Aligner]] = {
    aligner.name: aligner
    for aligner in (KernelRidge, PrototypeAttention, Ridge, Procrustes, CCA, Linear, MLP, JointKernelRidge)
}
"""Every mapping by its name; the first is the default."""


def make_aligner(aligner: str | Aligner = KernelRidge.name, **settings: Any) -> Aligner:
    """An unfitted aligner by name; one that is an aligner already is returned as it is.

    Args:
        aligner: a name as in `ALIGNERS` or as the class is called; case, "-" and "_" do not matter.
        settings: arguments of the aligner's `__init__`.

    Raises:
        HeadwordError: for a name or a setting that does not exist, or settings beside an instance.
    """
    if isinstance(aligner, Aligner):
        if settings:
            raise HeadwordError(f"settings ({', '.join(settings)}) go with a name, not with an aligner")
        return aligner
    plain = {_plain(name): name for name in ALIGNERS}
    if _plain(aligner) not in plain:
        near = difflib.get_close_matches(_plain(aligner), plain, n=3)
        raise HeadwordError(
            f"there is no aligner {aligner!r}; {_hint([plain[name] for name in near])}"
            f"the aligners are {', '.join(ALIGNERS)}"
        )
    made = ALIGNERS[plain[_plain(aligner)]]
    known = made.setting_names()
    for name in settings:
        if name not in known:
            has = f"its settings are {', '.join(known)}" if known else "it has no settings"
            raise HeadwordError(
                f"{made.name} has no setting {name!r}; {_hint(difflib.get_close_matches(name, known))}{has}"
            )
    for name, value in settings.items():
        default = inspect.signature(made.__init__).parameters[name].default
        kind = (
            (int, float)
            if isinstance(default, int | float | None) and not isinstance(default, bool)
            else type(default)
        )
        if not isinstance(value, kind) or (isinstance(value, bool) and not isinstance(default, bool)):
            what = "a number" if kind == (int, float) else f"a {type(default).__name__}"
            raise HeadwordError(f"{made.name}: {name} must be {what}, got {value!r}")
    return made(**settings)


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def _hint(near: list[str]) -> str:
    return f"did you mean {' or '.join(near)}? " if near else ""
