"""Settings beside those of training: of a dataclass, and lists of values."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from headword.errors import HeadwordError
from headword.settings import Settings, settings_of


@dataclass
class Fit:
    tau: Annotated[float, Field(gt=0)] = 0.1
    landmarks: Literal["sampled", "farthest"] = "sampled"
    learnt: float = field(init=False)


def test_the_arguments_of_a_dataclass_are_settings() -> None:
    settings = settings_of(Fit)
    assert settings.from_sources(None, ["tau=0.5"]).as_dict() == {"tau": 0.5, "landmarks": "sampled"}
    for values, line in (
        ({"tau": 0}, "tau must be more than 0, not 0"),
        ({"taw": 1}, "there is no option 'taw'; did you mean 'tau'?"),
        ({"landmarks": "samples"}, "must be one of sampled, farthest, not 'samples'; did you mean 'sampled'"),
    ):
        with pytest.raises(HeadwordError, match=line):
            settings(**values)


def test_lists_are_settings_from_every_source(tmp_path: Path) -> None:
    class Lists(Settings):
        shots: tuple[Annotated[int, Field(ge=1)], ...]
        templates: tuple[str, ...] | None = None

    file = tmp_path / "lists.yaml"
    file.write_text("shots: [1, 2]\ntemplates:\n- a {}\n- the {}\n")
    assert Lists.from_sources(file).as_dict() == {"shots": [1, 2], "templates": ["a {}", "the {}"]}
    (tmp_path / "lists.json").write_text('{"shots": [4]}')
    assert Lists.from_sources(tmp_path / "lists.json", ['templates=["a"]']).templates == ("a",)
    for words, line in (
        ([], "shots is missing"),
        (["shots=[0]"], "--set: shots must be"),
        (["shots=3"], "a list"),
    ):
        with pytest.raises(HeadwordError, match=line):
            Lists.from_sources(None, words)
