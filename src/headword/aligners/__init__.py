"""The mappings between a text encoder's space and an image encoder's: a file each, named in `ALIGNERS`."""

from __future__ import annotations

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
from headword.errors import HeadwordError, near

__all__ = [
    "ALIGNERS", "CCA", "MLP", "Aligner", "Identity", "JointKernelRidge", "KernelRidge", "LeftOut", "Linear",
    "Procrustes", "PrototypeAttention", "Ridge", "leave_out", "make_aligner",
]  # fmt: skip

ALIGNERS: dict[str, type[Aligner]] = {
    aligner.name: aligner
    for aligner in (KernelRidge, PrototypeAttention, Ridge, Procrustes, CCA, Linear, MLP, JointKernelRidge)
}  # every mapping by its name; the first is the default


def make_aligner(aligner: str | Aligner = KernelRidge.name, **settings: Any) -> Aligner:
    """An unfitted aligner by name; one that is an aligner already is returned as it is.

    Args:
        aligner: a name as in `ALIGNERS` or as the class is called; case, "-" and "_" do not matter.
        settings: arguments of the aligner's `__init__`; strings are read as the setting's type.

    Raises:
        HeadwordError: for a name or a setting that does not exist, a value that cannot be meant, or settings
            beside an instance.
    """
    if isinstance(aligner, Aligner):
        if settings:
            raise HeadwordError(f"settings ({', '.join(settings)}) go with a name, not with an aligner")
        return aligner
    kind = {_plain(name): kind for name, kind in ALIGNERS.items()}.get(_plain(aligner))
    if kind is None:
        hint = near(aligner, ALIGNERS) or ";"
        raise HeadwordError(f"there is no aligner {aligner!r}{hint} the aligners are {', '.join(ALIGNERS)}")
    known = kind.setting_names()
    for name in settings:
        if name not in known:
            they_are = f"its settings are {', '.join(known)}" if known else "it has no settings"
            raise HeadwordError(f"{kind.name} has no setting {name!r}{near(name, known) or ';'} {they_are}")
    return kind(**kind.checked_settings(settings))


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")
