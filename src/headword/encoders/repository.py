"""A model on the Hugging Face hub, whichever library reads it: pinned to one commit, and read as a folder.

A branch, a tag or a commit is resolved once. What is loaded is the commit's folder in the hub's cache, by the
same loader that reads a user's own folder, so that no library asks the hub for anything itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from headword.encoders.hub import loading, refuse_path
from headword.errors import HeadwordError
from headword.files import expand

_TEXTS = ("*.json", "*.txt", "*.model", "*.jinja")
"""Settings, vocabularies and tokenizers; never Python."""
_LAYERS = ("[1-9]*/model.safetensors", "[1-9]*/pytorch_model.bin")
"""What follows the encoder in a sentence-transformers model."""
_OTHERS = ("onnx/*", "openvino/*")
"""The same weights for engines that are not used here."""
_WEIGHTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "timm": (("model.safetensors",), ("pytorch_model.bin",)),
    "transformers": (("model*.safetensors",), ("pytorch_model*.bin",)),
    "sentence-transformers": (
        ("model*.safetensors", "0_*/model*.safetensors"),
        ("pytorch_model*.bin", "0_*/pytorch_model*.bin"),
    ),
    "open_clip": (
        ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors"),
        ("open_clip_pytorch_model.bin",),
    ),
}
"""By library, the files that hold a model's weights: the first kind that a repository has is taken."""


@dataclass(frozen=True, slots=True)
class Hub:
    """A repository of the hub's."""

    kind: str
    """The library that reads it: "timm", "transformers", "sentence-transformers" or "open_clip"."""
    repo: str
    revision: str | None = None
    """A branch, a tag or a commit; None for the repository's main branch."""

    @classmethod
    def parse(cls, kind: str, name: str) -> Hub:
        """ "USER/NAME" or "USER/NAME@REVISION".

        Raises:
            HeadwordError: if it is neither.
        """
        parts = re.fullmatch(r"([\w.-]+(?:/[\w.-]+)?)(?:@([\w./-]+))?", name)
        if parts is None:
            raise HeadwordError(
                f"{name!r} is no model's name on the hub; write USER/NAME, or USER/NAME@REVISION with a "
                "branch, a tag or a commit"
            )
        return cls(kind, parts[1], parts[2])

    def __str__(self) -> str:
        return self.repo if self.revision is None else f"{self.repo}@{self.revision}"

    def fetch(self) -> Path:
        """The folder with the commit's files, downloaded where need be; its name is the commit.

        Raises:
            HeadwordError: if the repository, the revision or its weights cannot be had, and why.
        """
        from huggingface_hub import snapshot_download

        revision = self.revision
        with loading(str(self)):
            for weights in _WEIGHTS[self.kind]:
                folder = Path(
                    snapshot_download(
                        self.repo,
                        revision=revision,
                        allow_patterns=[*_TEXTS, *_LAYERS, *weights],
                        ignore_patterns=list(_OTHERS),
                    )
                )
                if any(any(folder.glob(pattern)) for pattern in weights):
                    return folder
                revision = folder.name
        wanted = " or ".join(patterns[0] for patterns in _WEIGHTS[self.kind])
        raise HeadwordError(f"the hub's {self} has no weights that {self.kind} reads: no {wanted}")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a model lies, and what to call it."""

    folder: Path
    id: str
    """The folder, absolute, or the repository."""
    revision: str | None
    """The commit of a repository."""


def find(kind: str, name: str, what: str) -> Place:
    """The folder that a user means: one on disk, else a repository of the hub's.

    Args:
        kind: the library that reads it, as in `Hub`.
        name: a path, "USER/NAME" or "USER/NAME@REVISION".
        what: what it should be, for messages ("a classifier").

    Raises:
        HeadwordError: if there is none.
    """
    folder = expand(name)
    if folder.is_dir():
        folder = folder.resolve()
        return Place(folder, str(folder), None)
    refuse_path(name, what)
    hub = Hub.parse(kind, name)
    folder = hub.fetch()
    return Place(folder, hub.repo, folder.name)
