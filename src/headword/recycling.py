"""The main job: a classifier's head and its class names → a dual encoder."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from headword.aligners import Aligner, KernelRidge, make_aligner
from headword.aligners.joint import for_parts
from headword.aligners.pairs import Pairs
from headword.data.captions import Captioned, read_captions
from headword.encoders import TextEncoder, VisionEncoder, load_text, load_vision
from headword.encoders.enrichment import Enrichment, enriched_pairs, make_enrichment
from headword.encoders.prompts import DEFAULT_TEMPLATE, FOUR_TEMPLATES, check_templates
from headword.encoders.vision import Vision
from headword.errors import HeadwordError
from headword.extract import Progress, image_features
from headword.extract.given import Pool
from headword.head.names import ClassName
from headword.head.names import class_names as read_names
from headword.model import DualEncoder
from headword.scoring.calibration import leave_classes_out, names_taught, prior_scores, scores_from
from headword.scoring.centring import Centre
from headword.scoring.familiarity import fit_familiarity

CAPTIONS_FROM = 50  # captioned images from which their mean is a centre worth having
CAPTION_WEIGHT = 0.1  # beside a row's 1; chosen on flickr8k's validation split, 100 images (docs/beyond.md)
BESIDE_CAPTIONS = partial(KernelRidge, tau=0.6, penalty=1.0, centre_by_source=True)  # likewise
Watch = Callable[[str], AbstractContextManager[Progress | None]]  # by what is counted


def unwatched(_what: str) -> AbstractContextManager[None]:
    """For those who do not want to know how far the work is."""
    return nullcontext()


def recycle(
    vision: Vision = "embedded",
    text: str | os.PathLike[str] | TextEncoder = "embedded",
    *,
    aligner: str | Aligner = "kernel-ridge",
    class_names: str | Path | Sequence[str | ClassName] | None = None,
    captions: str | Path | Sequence[Captioned] | None = None,
    pairs: Pairs | None = None,
    centre_on: object = None,
    words: str | Enrichment | None = None,
    templates: str | Sequence[str] | None = None,
    device: str | torch.device = "auto",
    dtype: str = "auto",
    seed: int = 0,
    watch: Watch = unwatched,
    **vision_options: Any,
) -> DualEncoder:
    """Recycle a classifier's head (Méndez et al., ICML 2026): pair rows with class names and fit an aligner.

    Args:
        vision: a classifier, or a list of them to join, as in `load_vision`.
        text: a text encoder, as in `load_text`.
        aligner: the mapping, by name (see `headword.aligners.ALIGNERS`) or an instance.
        class_names: a file or list, in the order of the head's rows; the model's own when not given.
        captions: image-caption pairs that augment the head's rows: a file, or `Captioned` entries. From 50
            images on a caption weighs a tenth of a row, and "kernel-ridge" means `BESIDE_CAPTIONS`.
        pairs: further pairs of your own, in the encoders' spaces.
        centre_on: an unlabelled pool to centre images on: a folder, images or features.
        words: what the rows are paired with: "plain" for the class names alone, as in the paper; "rich" for
            synonyms, definitions, kinds and hypernyms too; or an `Enrichment`. Rich when not given, but
            plain for the paper's mappings that gradient descent learns.
        templates: one or several, with "{}" for the class name, for the fit and for the model's `classify`.
            When not given the fit takes bare names, and a rich model reads labels in four templates.
        device: "auto", "cpu", "cuda" or "mps".
        dtype: "auto", "float32" or "bfloat16" for the vision encoder.
        seed: of the split that scale, threshold and familiarity are fitted with.
        watch: called with what is about to be embedded, "texts", "images" or "captions"; gives a context
            whose value is called with (done, all) meanwhile.
        **vision_options: `head`, `transform`, `input_size` of a module of your own, as in `load_vision`.

    Returns:
        The model; `.timings` says what each step took, in seconds.

    Raises:
        HeadwordError: if an input is wrong, in one line that says which and how to mend it.
    """
    # Everything that can be wrong without a model is read before one is loaded.
    captioned = read_captions(captions) if isinstance(captions, str | Path) else captions
    many = captioned is not None and len(captioned) >= CAPTIONS_FROM
    mapping = BESIDE_CAPTIONS() if many and aligner == KernelRidge.name else make_aligner(aligner)
    if mapping is aligner:  # the model owns its aligner; one instance may make many models
        mapping = copy.deepcopy(mapping)
    if words is None:
        words = "plain" if mapping.iterative else "rich"
    enrichment = make_enrichment(words)
    rich_use = templates is None and enrichment.hypernym_weight > 0
    templates = check_templates(DEFAULT_TEMPLATE if templates is None else templates)
    names = None if class_names is None else read_names(class_names)
    pool = None if centre_on is None else Pool.of(centre_on)
    timings: dict[str, float] = {}
    step = _stopwatch(timings)
    with step("load vision encoder"):
        image_encoder = load_vision(vision, names=names, device=device, dtype=dtype, **vision_options)
    head, labels = image_encoder.named_head()
    if len({c.name for c in labels.classes}) < 2:
        raise HeadwordError(
            f"all of the head's classes are called {labels.classes[0].name!r}: words are told apart by how "
            "its rows differ, so recycle a head of two classes or more, better fifty"
        )
    if head.widths:
        mapping = for_parts(mapping, head.weight, head.widths)
    with step("load text encoder"):
        text_encoder = load_text(text, device=device)
    with step("embed class names"), watch("texts") as progress:
        fit_pairs = enriched_pairs(
            head.weight.float().cpu(), labels.classes, text_encoder, templates, enrichment, progress=progress
        )
    if captioned is not None:
        with step("embed captioned images"):
            caption_rows = caption_pairs(image_encoder, text_encoder, captioned, watch)
            fit_pairs = fit_pairs + (caption_rows.weighted(CAPTION_WEIGHT) if many else caption_rows)
    if pairs is not None:
        fit_pairs = fit_pairs + pairs
    fit_pairs = fit_pairs.to(device=image_encoder.device)
    with step("fit aligner"):
        mapping.fit(fit_pairs)
    with step("fit scores"):
        left_out = leave_classes_out(mapping, fit_pairs, seed=seed)
        scores = scores_from(left_out, prior_scores(names_taught(fit_pairs)))
    with step("fit familiarity"):
        familiarity_fit = fit_familiarity(mapping, left_out)
    centre = Centre("default")
    if captioned and mapping.by_source:
        centre = Centre("pool", len(captioned), "the captioned images")
    model = DualEncoder(
        vision=image_encoder, text=text_encoder, aligner=mapping, pairs=fit_pairs, centre=centre,
        templates=FOUR_TEMPLATES if rich_use else templates, hypernym_weight=enrichment.hypernym_weight,
        scores=scores, timings=timings, familiarity_fit=familiarity_fit,
    )  # fmt: skip
    if pool is not None:
        with step("centre_on"), watch("images") as progress:
            model.centre_on(pool, progress=progress)
    return model


def caption_pairs(
    vision: VisionEncoder, text: TextEncoder, captions: Sequence[Captioned], watch: Watch
) -> Pairs:
    """Each image's features beside each of its captions' embeddings, a row a caption."""
    with watch("images") as progress:
        features = image_features(vision, [entry.image for entry in captions], progress=progress)
    texts = tuple(caption for entry in captions for caption in entry.captions)
    rows = [row for row, entry in enumerate(captions) for _ in entry.captions]
    with watch("captions") as progress:
        embedded = text.encode(texts, progress=progress)
    return Pairs(features[rows], embedded, texts, ("caption",) * len(texts))


def class_mean_pairs(features: Tensor, labels: Tensor, names: Sequence[str], text: Tensor) -> Pairs:
    """Class means of unit-norm features `[N, d]` beside their names' embeddings `[C, k]`, classes without
    images left out: the rows' rival in the paper's analyses.
    """
    unit = nn.functional.normalize(features, dim=1)
    present = torch.unique(labels)
    means = torch.stack([unit[labels == c].mean(dim=0) for c in present])
    named = tuple(names[c] for c in present.tolist())
    return Pairs(means, text[present], named, source=("class-mean",) * len(present))


def _stopwatch(timings: dict[str, float]) -> Callable[[str], Any]:
    @contextmanager
    def step(name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        timings[name] = time.perf_counter() - start

    return step
