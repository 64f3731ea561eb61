"""What is asked of an index, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headword.errors import HeadwordError
from headword.results import Table, columns_of

if TYPE_CHECKING:
    from torch import Tensor

    from headword.data.safe_images import ImageSource


LEAST_MOVE, MOVE, WRONG = 0.3, 0.5, 0.1
"""How far judged hits move a query, chosen by `experiments/benchmarks/judged.py`."""


@dataclass(frozen=True, slots=True)
class Query:
    """Words, a picture, or both, words to stay away from, and hits that were judged.

    With unit vectors t of the text, v of the picture and nⱼ of the negative words, the query vector is

        normalise(text_weight · t + image_weight · v − negative_weight · Σ nⱼ)

    where what is not given is left out. Pictures of the index that were `right`, with the mean embedding r,
    and that were `wrong`, with w, move this q to

        normalise(q + β (r − `WRONG` w)),   β = `LEAST_MOVE` + `MOVE` · share of the judged that were wrong,

    so that a query that finds what is meant stays where it is.
    """

    text: str | None = None
    image: ImageSource | Tensor | None = None
    """A picture, from anywhere; or one that is transformed already, float `[1, 3, H, W]`."""
    like: str | None = None
    """A picture of the index, by its path: instead of `image`, and nothing is opened."""
    negative: tuple[str, ...] = ()
    right: tuple[str, ...] = ()
    """Pictures of the index that are what is looked for, by path."""
    wrong: tuple[str, ...] = ()
    """Pictures of the index that are not, by path."""
    text_weight: float = 1.0
    image_weight: float = 1.0
    negative_weight: float = 0.5

    @property
    def is_words(self) -> bool:
        """Whether words alone are searched for, judged hits aside."""
        return self.text is not None and self.image is None and self.like is None

    def check(self) -> None:
        """Refuse a query that says nothing.

        Raises:
            HeadwordError: for neither words nor picture, two pictures, empty words, or a weight that is not
                positive.
        """
        if self.image is not None and self.like is not None:
            raise HeadwordError("a query has one picture: give image or like, not both")
        if both := set(self.right) & set(self.wrong):
            raise HeadwordError(f"{min(both)!r} is judged right and wrong; keep one")
        if self.text is None and self.image is None and self.like is None and not self.right:
            raise HeadwordError("nothing to search for: give words, a picture, or both")
        if any(not word.strip() for word in (*self.negative, *([] if self.text is None else [self.text]))):
            raise HeadwordError("the words to search for are empty")
        weights = (self.text_weight, self.image_weight, self.negative_weight)
        if not all(0 < weight < float("inf") for weight in weights):
            raise HeadwordError(f"the weights of a query must be positive, got {weights}")


@dataclass(frozen=True, slots=True)
class Tag:
    """A word that an image has."""

    tag: str
    score: float
    """Its probability; 1 for one that was given by hand."""
    by_hand: bool = False


@dataclass(frozen=True, slots=True)
class Hit:
    """An image that was found."""

    path: str
    """Relative to the indexed folder, with "/"."""
    score: float
    """Cosine to the query, in the space shared with words; 0 where nothing was asked for."""
    tag: str | None = None
    """The first of `tags`."""
    tag_score: float | None = None
    """Its probability."""
    tags: tuple[Tag, ...] = ()
    """Its labels of `headword tag`, and those given by hand, which come first; then the likeliest first."""
    relevance: float | None = None
    """The calibrated chance that it shows the words, by the query and the collection; see
    `headword.search.relevance`. None where other than words were searched for.
    """


class Hits(Table, list[Hit]):
    """Images that were found, best first."""

    least_shown: float | None = None
    """The relevance below which the answers end; None where hits have none."""

    def columns(self) -> dict[str, list[Any]]:
        """The fields of the hits, a row for each; of tags their words."""
        return columns_of(Hit, self) | {"tags": [[tag.tag for tag in hit.tags] for hit in self]}
