"""A stated prior over labels: the share of a collection's images that each one has."""

from __future__ import annotations

from headword.errors import HeadwordError
from headword.files import expand, read_json
from headword.scoring.transductive import UNIFORM


def read_prior(said: str) -> str | dict[str, float]:
    """The word "uniform" as it is, or the shares in a JSON file, an object from label to share or count.

    Raises:
        HeadwordError: if there is no such file or it holds no object.
    """
    if said == UNIFORM:
        return said
    file = expand(said)
    if not file.is_file():
        raise HeadwordError(
            f'the prior must be "{UNIFORM}" or a JSON file from label to share; no file {said}'
        )
    shares = read_json(file)
    if not isinstance(shares, dict):
        raise HeadwordError(f'{file} must hold an object from label to share, as {{"cat": 0.7, "dog": 0.3}}')
    return shares
