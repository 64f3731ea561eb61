"""Exact ranks between images and captions, and what is read off them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from headword.errors import HeadwordError
from headword.metrics._checks import check_k, check_matrix, chunk_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where the right answers stand, from 1, when all M captions and N images are ranked by cosine."""

    caption: Tensor  # `[M]` the place each caption has among all captions, ranked for its own image
    image: Tensor  # `[M]` the place its image has among all images, ranked for the caption
    owner: Tensor  # `[M]` the image each caption belongs to
    n_images: int


@torch.inference_mode()
def retrieval_places(image: Tensor, text: Tensor, owner: Tensor) -> Places:
    """Rank all captions for each image and all images for each caption; exact, in chunks.

    Of unit-norm images `[N, D]` and captions `[M, D]`, and the image `[M]` that owns each caption. A wrong
    item that scores as high as a right one goes before it, in both directions; right captions of one image
    that tie with each other take the places after, one each.

    Raises:
        HeadwordError: for shapes that do not fit, values that are not finite, or an owner that is no image.
    """
    image, text = check_matrix(image, "the image embeddings"), check_matrix(text, "the text embeddings")
    if image.shape[1] != text.shape[1]:
        raise HeadwordError(
            f"images have {image.shape[1]} dimensions and texts {text.shape[1]}: not one shared space"
        )
    if owner.shape != text.shape[:1] or owner.is_floating_point():
        raise HeadwordError(f"{len(text)} captions need as many owners, got shape {list(owner.shape)}")
    owner = owner.long()
    if owner.min() < 0 or owner.max() >= len(image):
        raise HeadwordError(f"a caption's owner is not one of the {len(image)} images")
    captions, images = _caption_places(image, text, owner), _image_places(image, text, owner)
    return Places(caption=captions, image=images, owner=owner, n_images=len(image))


def retrieval_metrics(places: Places, ks: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
    """Retrieval in percent; images without captions are never queries, but stand among the answers.

    - `i2t_r{k}`: images with at least one of their captions among the first k
    - `t2i_r{k}`: captions whose image is among the first k
    - `i2t_p{k}`: right captions among the first k, over min(k, captions the image has); mean over images
    - `i2t_map`, `t2i_map`: mean average precision over the whole ranking

    Raises:
        HeadwordError: for a k larger than the number of images or of captions.
    """
    check_k(ks, places.n_images, "images")
    check_k(ks, len(places.caption), "captions")
    captions = torch.bincount(places.owner, minlength=places.n_images)
    queries = captions > 0
    result: dict[str, float] = {}
    for k in ks:
        first = (places.caption <= k).double()
        hits = torch.bincount(places.owner, weights=first, minlength=places.n_images)[queries]
        result[f"i2t_r{k}"] = 100 * float((hits > 0).double().mean())
        result[f"t2i_r{k}"] = 100 * float((places.image <= k).double().mean())
        result[f"i2t_p{k}"] = 100 * float((hits / captions[queries].clamp_max(k)).mean())
    precision = _ordinal(places.owner, places.caption).double() / places.caption
    average = torch.bincount(places.owner, weights=precision, minlength=places.n_images)
    result["i2t_map"] = 100 * float((average[queries] / captions[queries]).mean())
    result["t2i_map"] = 100 * float((1 / places.image.double()).mean())  # one right image for each caption
    return result


def _image_places(image: Tensor, text: Tensor, owner: Tensor) -> Tensor:
    places = []
    step = chunk_rows(len(image))
    for rows, own in zip(torch.split(text, step), torch.split(owner, step), strict=True):
        scores = rows @ image.T  # [step, N]
        # Taken out of the same product: computed by itself it could differ in its last bit.
        places.append(_at_least(scores, scores.gather(1, own[:, None])))
    return torch.cat(places)


def _caption_places(image: Tensor, text: Tensor, owner: Tensor) -> Tensor:
    """For each caption: wrong captions that score as high for its image, and its number among the right."""
    order = owner.argsort(stable=True)
    counts = torch.bincount(owner, minlength=len(image))
    ends = counts.cumsum(0)
    places = torch.empty_like(owner)
    step = chunk_rows(len(text))
    for start in range(0, len(image), step):
        count = counts[start : start + step]
        if not count.any():
            continue
        scores = image[start : start + step] @ text.T  # [step, M]
        first = ends[start : start + step] - count
        most = int(count.max())
        # [step, most]: each image's captions, the last one repeated where it has fewer.
        nth = torch.arange(most).expand(len(count), most)
        real = nth < count[:, None]
        own = order[(first[:, None] + torch.minimum(nth, count[:, None] - 1)).clamp(0, len(order) - 1)]
        right = scores.gather(1, own)
        as_high = torch.stack([_at_least(scores, column) for column in torch.split(right, 1, dim=1)], dim=1)
        right = right.masked_fill(~real, -torch.inf)
        right_as_high = (right[:, None, :] >= right[:, :, None]).sum(dim=2)
        # argsort of argsort: 0 for the best right caption, 1 for the next, also where they tie.
        number = right.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        place = as_high - right_as_high + number + 1
        places[own[real]] = place[real]
    return places


def _at_least(scores: Tensor, threshold: Tensor) -> Tensor:
    """How many of each row `[R, C]` are not below its threshold `[R, 1]`."""
    return torch.count_nonzero(scores >= threshold, dim=1)


def _ordinal(owner: Tensor, places: Tensor) -> Tensor:
    """1 for the first caption of its image by place, 2 for the second, …: `[M]`."""
    order = places.argsort(stable=True)
    order = order[owner[order].argsort(stable=True)]  # by image, then by place
    counts = torch.bincount(owner)
    starts = counts.cumsum(0) - counts
    ordinal = torch.empty_like(owner)
    ordinal[order] = torch.arange(len(owner)) - starts[owner[order]] + 1
    return ordinal
