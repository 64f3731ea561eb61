"""Vision encoder, text encoder and aligner as one model: images and words in one space."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from headword.aligners import Aligner
from headword.aligners.pairs import Pairs
from headword.classifier import Classifier
from headword.dense import Locator
from headword.encoders import TextEncoder, VisionEncoder
from headword.encoders.hub import model_folder
from headword.encoders.prompts import check_labels, check_templates, embed_names
from headword.encoders.vision import Vision
from headword.errors import HeadwordError
from headword.export.publishing import Publishable
from headword.extract import Progress, extract, image_features
from headword.extract.given import Pool
from headword.extract.matches import Matches
from headword.head.names import ClassName
from headword.saved import read_model, write_model
from headword.scoring.calibration import Scores, names_taught, taught_rows
from headword.scoring.centring import STRENGTH, Centre, RunningCentre
from headword.scoring.explain import Explanation, explain
from headword.scoring.familiarity import Depth, Familiarity, Taught
from headword.scoring.transductive import OFF, Hubs


@dataclass(slots=True, repr=False)
class DualEncoder(Publishable):
    """Images and texts → unit-norm `[N, D]` in one space: from `headword.recycle`, `load`, or training."""

    vision: VisionEncoder
    text: TextEncoder
    aligner: Aligner
    pairs: Pairs | None
    """What the aligner was fitted on; None where the two encoders were trained in one space."""
    templates: tuple[str, ...]
    """The templates of the fit, and the default of `classify`."""
    scores: Scores
    centre: Centre
    hypernym_weight: float = 0.0
    """How much of a label's embedding says what WordNet calls it a kind of; see `Prompts`."""
    timings: dict[str, float] = field(default_factory=dict)
    """Seconds each step of making it took; empty for a loaded one."""
    training: dict[str, Any] | None = None
    """What headword trained the encoders on and how, as JSON."""
    familiarity_fit: Familiarity | None = None
    """What `familiarity` needs; None where the head has too few classes or an older headword saved it."""
    _taught: tuple[Pairs, Taught] | None = field(default=None, init=False)

    _locator: Locator | None = field(default=None, init=False)

    @property
    def classes(self) -> tuple[ClassName, ...]:
        """The classes of the recycled head; none where there was no head."""
        return () if self.vision.labels is None else self.vision.labels.classes

    @property
    def one_space(self) -> bool:
        """Whether the encoders were trained in one space; such a model is never centred unless asked."""
        return self.pairs is None

    @property
    def doubt(self) -> str | None:
        """Why all of its labels are to be taken with care, in half a sentence; None where nothing says so."""
        return None if self.pairs is None else self.scores.doubt(names_taught(self.pairs))

    @property
    def dim(self) -> int:
        """Width D of the shared space."""
        return self.aligner.shared_dim

    def image_features(self, images: object, **options: Any) -> Tensor:
        """Images → the classifier's own features `[N, d]`; options as of `extract.image_features`."""
        return image_features(self.vision, images, **options)

    def encode_image(
        self,
        images: object,
        *,
        batch_size: int = 32,
        centre: RunningCentre | None = None,
        skipped: dict[int, str] | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """Images → float32 `[N, D]`, unit norm.

        Args:
            images: the N images: a path, folder, glob, PIL image, tensor or array, an image file's bytes, any
                iterable of these, or features `[N, d]`; see `headword.extract.given.given` for all kinds.
                Anything else is refused by name.
            batch_size: images that go through the model together.
            centre: from `running_centre`: each image is centred on those that came up to it.
            skipped: where given, an image that cannot be read is left out, and the line that says why put
                here by its place in `images`; if none can be read, that is raised.
            progress: called with (done, all) after every batch.

        Raises:
            HeadwordError: if an image cannot be read, in one line with its name.
        """
        extracted = extract(
            self.vision, images, batch_size=batch_size, progress=progress, strict=skipped is None
        )
        if skipped is not None:
            skipped |= extracted.errors
        features = extracted.features
        broken = (~torch.isfinite(features).all(dim=1)).nonzero()
        if len(broken):
            what = f"the features of {len(broken)} of {len(features)} images"
            raise HeadwordError(f"{what} are not finite, the first in row {int(broken[0])}")
        centres = None if centre is None else centre.centres(features).to(self.aligner.centre_)
        with torch.inference_mode():
            return self.aligner.image(features.to(self._device), centres).float().cpu()

    def encode_text(self, texts: Sequence[str], *, templates: str | Sequence[str] = "{}") -> Tensor:
        """Texts → float32 `[N, D]`, unit norm; with several templates, of their average.

        A noun that WordNet knows is read with what it is a kind of, as far as `hypernym_weight` says.
        """
        embedded = embed_names(self.text, texts, templates, hypernym_weight=self.hypernym_weight)
        with torch.inference_mode():
            return self.aligner.text(embedded.to(self._device)).float().cpu()

    def cosines(
        self,
        images: object,
        texts: Sequence[str],
        *,
        templates: str | Sequence[str] | None = None,
        batch_size: int = 32,
    ) -> Tensor:
        """Cosine `[N, L]` of each image with each text; `templates` as in `classify`."""
        words = self.encode_text(texts, templates=self.templates if templates is None else templates)
        return self.encode_image(images, batch_size=batch_size) @ words.T

    def classifier(
        self,
        labels: Sequence[str],
        *,
        templates: str | Sequence[str] | None = None,
        none_of_these: bool = False,
        multi_label: bool = False,
    ) -> Classifier:
        """Words as a classifier, with scikit-learn's interface; the labels are encoded here, once.

        Args:
            labels: what to choose from, any words; need not be classes of the head.
            templates: one or several with a "{}" for the label; the model's own when not given.
            none_of_these: adds a last class for images that no label fits.
            multi_label: an independent probability for each label.

        Raises:
            HeadwordError: for no labels, an empty or repeated one, or a bad template.
        """
        chosen = check_templates(self.templates if templates is None else templates)
        return Classifier(
            self, check_labels(labels), templates=chosen, none_of_these=none_of_these, multi_label=multi_label
        ).encoded()

    def classify(
        self,
        images: object,
        labels: Sequence[str],
        *,
        templates: str | Sequence[str] | None = None,
        multi_label: bool = False,
        none_of_these: bool = False,
        collection: str = OFF,
        prior: str | Mapping[str, float] | None = None,
        centre: RunningCentre | None = None,
        batch_size: int = 32,
    ) -> Tensor:
        """Probabilities `[N, L]` of labels, any words: `classifier(labels).predict_proba(images)`.

        `images`, `centre` and `batch_size` are as for `encode_image`; `labels`, `templates`, `multi_label`
        and `none_of_these` as for `classifier`; `collection`, which labels all at once, and `prior` as for
        `Classifier.logits`. What does not do is refused by a `HeadwordError`, as there.
        """
        classifier = self.classifier(
            labels, templates=templates, none_of_these=none_of_these, multi_label=multi_label
        )
        chances = classifier.predict_proba(
            images, collection=collection, prior=prior, centre=centre, batch_size=batch_size
        )
        return torch.from_numpy(chances)

    def search(
        self,
        images: object,
        queries: Sequence[str],
        *,
        k: int = 10,
        templates: str | Sequence[str] = "{}",
        hubs: Hubs | None = None,
    ) -> Matches:
        """The k best images for each query, best first: (places in `images` `[Q, k]`, scores `[Q, k]`), and
        `paths` where images are.

        The scores are cosines; with `hubs`, of queries centred as its texts, less each image's penalty.
        """
        embeds, words = self.encode_image(images), self.encode_text(queries, templates=templates)
        if hubs is None:
            scores = words @ embeds.T
        else:
            scores = hubs.centred(words) @ embeds.T - hubs.image_penalty(embeds)
        best = scores.topk(min(k, len(embeds)), dim=1)
        return Matches.of(images, best.indices, best.values)

    def locate(
        self,
        images: object,
        texts: Sequence[str],
        *,
        size: int | None = None,
        refine: bool = True,
        templates: str | Sequence[str] | None = None,
    ) -> list[Tensor]:
        """Where in each image each text is: a map `[L, h, w]` an image, of each place's share of the cosine.

        A map covers the image; where features are means over places (`locator.exact`), the mean of one made
        with `refine=False` at the classifier's own size, of the crop it reads, is `cosines`'s.

        Args:
            images: as for `encode_image`, except features; transformed ones are read as they are.
            texts: L words; `templates` as in `classify`.
            size: longer side in pixels to read at; 4 times the classifier's own when not given.
            refine: average two sizes and neighbouring places, and more (docs/locate.md).

        Raises:
            HeadwordError: if the encoder keeps no places, does not take the size, or an image is unreadable.
        """
        words = self.encode_text(texts, templates=templates or self.templates)
        return list(self.locator.each(images, words, size=size, refine=refine))

    @property
    def locator(self) -> Locator:
        """What makes the maps of `locate`, one by one."""
        self._locator = self._locator or Locator(self.vision, self.aligner, self.pairs, self.scores)
        return self._locator

    def hubs(self, images: object, texts: Sequence[str], *, k: int = 30) -> Hubs:
        """What is near to everything, by images and texts (two at least) like the ones to be searched with.

        They need not belong together. Take new ones after `centre_on`.
        """
        return Hubs.of(self.encode_image(images), self.encode_text(texts), k)

    def running_centre(self, strength: float = STRENGTH) -> RunningCentre:
        """A centre for images that arrive one after the other, from the model's own as `strength` images."""
        return RunningCentre(self.aligner.centre_.cpu(), strength, self.aligner.unit)

    def depths(self, texts: Sequence[str], *, templates: str | Sequence[str] = "{}") -> list[Depth]:
        """How familiar each text is, and whether out of the head's depth, as all are in `doubt`."""
        fit, doubted = self.familiarity_fit, self.doubt is not None
        if fit is None or not texts:
            return [Depth(None, doubted or None)] * len(texts)
        values = self.familiarity(texts, templates=templates).tolist()
        return [Depth(value, doubted or value < fit.low) for value in values]

    @torch.inference_mode()
    def familiarity(self, texts: Sequence[str], *, templates: str | Sequence[str] = "{}") -> Tensor:
        """How well what the head was taught covers texts: `[N]` between 0 and 1, the `templates` as in use.

        Raises:
            HeadwordError: if the model has no `familiarity_fit`.
        """
        if self.familiarity_fit is None or self.pairs is None:
            raise HeadwordError(
                "this model cannot tell its familiarity: its head has fewer than 50 classes, or an older "
                "headword made it; recycle again"
            )
        if self._taught is None or self._taught[0] is not self.pairs:
            self._taught = (self.pairs, Taught(taught_rows(self.pairs.to(device=self._device))))
        embedded = embed_names(self.text, texts, templates).to(self._device)
        return self.familiarity_fit.of(self._taught[1].evidence(embedded)).float().cpu()

    @torch.inference_mode()
    def explain(
        self, texts: Sequence[str], *, k: int = 10, templates: str | Sequence[str] = "{}"
    ) -> list[Explanation]:
        """The pairs' k heaviest prototypes in the vector that `encode_text` gives each text."""
        if self.pairs is None:
            raise HeadwordError(
                "this model was trained on captions and has no head's rows to explain words by; "
                "give one that headword recycle made"
            )
        embedded = embed_names(self.text, texts, templates, hypernym_weight=self.hypernym_weight)
        pairs = self.pairs.to(device=self._device)
        return explain(self.aligner, pairs, embedded.to(self._device), k=k)

    def centre_on(self, source: object, *, batch_size: int = 32, progress: Progress | None = None) -> Self:
        """Centre the image side on an unlabelled pool, in place; returns the model.

        Args:
            source: a folder, images as for `encode_image`, or features `[N, d]` (also a file of them: npz,
                Parquet, safetensors), best the collection that will be labelled; what cannot be read is
                counted.
            batch_size: images that go through the model together.
            progress: called with (done, all) after every batch.

        Raises:
            HeadwordError: if the pool has fewer than two different readable images, or a feature is not
                finite.
        """
        pool = Pool.of(source)
        extracted = extract(self.vision, pool.images, batch_size=batch_size, progress=progress)
        features = extracted.features
        if len(features) < 2 or bool((features == features[0]).all()):
            raise HeadwordError(
                "centring needs at least two different images, better some dozens: centred on itself, a "
                "picture says nothing"
            )
        self.aligner.centre_on(features.to(self._device))
        self.centre = Centre("pool", len(features), pool.folder, len(extracted.errors))
        return self

    def save(
        self, folder: str | os.PathLike[str], *, with_encoders: bool = False, overwrite: bool = False
    ) -> Path:
        """Save into a new folder of safetensors and JSON, whole or not there; see `headword.saved`.

        Args:
            folder: must not hold anything yet, unless `overwrite` and it is a saved model.
            with_encoders: copy the encoders' weights along; else the folder names them and holds their hash.
            overwrite: replace a saved model that is there.
        """
        return write_model(self, Path(folder), with_encoders=with_encoders, overwrite=overwrite)

    def provenance(self) -> dict[str, Any]:
        """Where every part came from, as JSON: what results carry and `headword.json` holds."""
        sources = {} if self.pairs is None else self.pairs.sources
        parts = {
            "vision": self.vision.provenance(),
            "text": self.text.provenance(),
            "templates": list(self.templates),
            "hypernym_weight": self.hypernym_weight,
            "aligner": {"name": self.aligner.name, "settings": self.aligner.settings},
            "pairs": {"number": sum(sources.values()), "sources": sources},
            "centre": asdict(self.centre),
            "scores": self.scores.as_json(),
            "training": self.training,
            "doubt": self.doubt,
        }
        return {name: value for name, value in parts.items() if value is not None}

    @property
    def _device(self) -> torch.device:
        return self.aligner.centre_.device

    def __repr__(self) -> str:
        parts = f"{self.vision!r}, {self.text!r}, aligner={self.aligner.name}, centre={self.centre}"
        return f"DualEncoder({parts}{'' if self.doubt is None else f', take with care: {self.doubt}'})"


def load(
    folder: str | os.PathLike[str],
    *,
    vision: Vision | None = None,
    text: TextEncoder | str | None = None,
    device: str | torch.device = "auto",
    dtype: str | None = None,
    defer_vision: bool = False,
    **vision_options: Any,
) -> DualEncoder:
    """Load a saved model.

    Args:
        folder: what `DualEncoder.save` wrote, or "hf:USER/NAME", perhaps with "@REVISION", on the hub.
        vision: in place of the encoder the folder names, for one that moved, or a module of your own:
            itself, or as "module:FILE.py:FACTORY", imported because it is named here and never because a
            folder says so.
        text: likewise.
        device: "auto", "cpu", "cuda" or "mps".
        dtype: "float32" or "bfloat16" for the vision encoder; the one it was saved with when not given.
        defer_vision: load (and check) the vision encoder when a picture is first asked about; words alone
            need none, and its libraries take seconds to import.
        **vision_options: `transform`, `input_size` for a module of your own, as in `load_vision`.

    Raises:
        HeadwordError: if a file is missing, was changed, or has a newer format; or if an encoder cannot be
            had or has other weights than the model was made with.
    """
    options = {"device": device, "dtype": dtype, "defer_vision": defer_vision, **vision_options}
    return DualEncoder(**read_model(model_folder(folder), vision=vision, text=text, **options))
