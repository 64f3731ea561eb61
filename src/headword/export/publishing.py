"""A model as a repository of the Hugging Face hub: its folder and a card."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from headword.encoders.base import Encoder
from headword.encoders.hub import hub_unreachable, parse_repository, refusal, silent
from headword.encoders.joint_vision import SEPARATOR
from headword.errors import HeadwordError
from headword.export.card import model_card, model_facts
from headword.files import write_text_atomic
from headword.results import html_table

HUB = "hf:"
"""What a name of a model on the hub begins with."""


class Publishable:
    """A model's way to the hub, and into a notebook."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        model: Any = self
        return html_table("DualEncoder", model_facts(model.provenance()).items())

    def push(
        self,
        repo: str,
        *,
        private: bool = False,
        with_encoders: bool = False,
        results: Sequence[Mapping[str, Any]] = (),
    ) -> str:
        """Push the model to the Hugging Face hub, with a card; returns "hf:USER/NAME@COMMIT".

        `headword.load("hf:USER/NAME")` loads it again. Only safetensors and JSON are pushed, and no pictures.

        Args:
            repo: "USER/NAME"; made if it is not there, and a new commit if it is.
            private: whether a new repository is.
            with_encoders: the encoders' weights too, which must be where they cannot be had elsewhere; see to
                it that their licences allow it.
            results: what `headword evaluate --json` wrote of this model, for the card.

        Raises:
            HeadwordError: before anything is sent, if there is no token or an encoder cannot be loaded
                elsewhere; else if the hub refuses.
        """
        from huggingface_hub import HfApi, get_token

        model: Any = self
        name, revision = parse_repository(repo.removeprefix(HUB))
        if revision is not None or "/" not in name:
            raise HeadwordError(f"{repo!r} is no repository to push to; write USER/NAME")
        for side, encoder in (("vision", model.vision), ("text", model.text)):
            if not with_encoders:
                _check_source(side, encoder)
        if get_token() is None:
            raise HeadwordError(
                "pushing needs a token of the hub that may write: log in with `hf auth login`"
            )
        if why := hub_unreachable():
            raise HeadwordError(f"cannot push {name!r}: {why}")
        with tempfile.TemporaryDirectory() as folder, _refusals(name), silent():
            saved = model.save(Path(folder) / "model", with_encoders=with_encoders)
            write_text_atomic(saved / "README.md", model_card(model, name, results))
            api = HfApi()
            api.create_repo(name, private=private, exist_ok=True)
            message = "headword model"
            done = api.upload_folder(
                repo_id=name, folder_path=saved, commit_message=message, delete_patterns="*"
            )
        return f"{HUB}{name}@{done.oid}"


def _check_source(side: str, encoder: Encoder) -> None:
    """Refuse an encoder that another machine could not load by its name."""
    kind, _, whole = encoder.name.partition(":")
    parts = [part.partition(":")[2] or part for part in whole.split(SEPARATOR)]
    local = any(Path(part.removeprefix("local-dir:")).is_absolute() for part in parts)
    if kind == "module" or (local and kind != "trained"):
        raise HeadwordError(
            f"the {side} encoder {encoder.name} is on this machine alone; push its weights too, if their "
            "licence allows it: --with-encoders (with_encoders=True)"
        )


@contextmanager
def _refusals(repo: str) -> Iterator[None]:
    """What the hub refuses, and a connection that breaks, in one line."""
    try:
        yield
    except HeadwordError:
        raise
    except Exception as error:  # whatever the client's own HTTP library raises
        raise HeadwordError(f"cannot push {repo!r}: {refusal(error, 'write there')}") from error
