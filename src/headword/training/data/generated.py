"""The generated set of shapes as a training set."""

from __future__ import annotations

from headword.data.shapes import Shapes
from headword.errors import HeadwordError, near
from headword.training.data.sources import Sample

_SETTINGS = ("images", "size", "seed")


class ShapesSamples:
    """`headword.data.shapes.Shapes`, captioned in varied words; the longer caption is the re-written one."""

    def __init__(self, shapes: Shapes) -> None:
        self._shapes = shapes

    @property
    def fingerprint(self) -> str:
        """See `Shapes.fingerprint`."""
        return self._shapes.fingerprint

    def __len__(self) -> int:
        return len(self._shapes)

    def __getitem__(self, index: int) -> Sample:
        captions, rewritten, name = self.text(index)
        return Sample(self._shapes.picture(index), captions, rewritten, name)

    def text(self, index: int) -> tuple[tuple[str, ...], tuple[str, ...], str]:
        """Captions, re-written captions and name of a sample, without its picture."""
        captions, rewritten = self._shapes.text(index)
        return captions, (rewritten,), f"shapes/{self._shapes.split}/{index}"


def open_shapes(settings: str, *, split: str | None = None, seed: int = 0) -> ShapesSamples:
    """The set that "images=5000,size=96" means; "seed=3" there goes before the argument.

    Raises:
        HeadwordError: for a setting that does not exist or is no whole number, and as `Shapes`.
    """
    values = {"seed": seed}
    for entry in filter(None, settings.split(",")):
        name, _, value = entry.partition("=")
        if name not in _SETTINGS:
            hint = near(name, _SETTINGS, n=1)
            raise HeadwordError(f"shapes has no setting {name!r}{hint} It has {', '.join(_SETTINGS)}")
        if not value.isdecimal():
            raise HeadwordError(f"shapes: {name} must be a whole number, got {value!r}")
        values[name] = int(value)
    return ShapesSamples(Shapes(split or "train", **values))
