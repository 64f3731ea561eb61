"""Images → features: decode in threads, one batch ahead of the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from os import cpu_count

import torch
from torch import Tensor

from headword.data.images import ImageSource, images_of, load_image
from headword.encoders import VisionEncoder
from headword.errors import HeadwordError

Progress = Callable[[int, int], None]
"""Called with (images done, images in all)."""


def image_features(
    vision: VisionEncoder,
    images: object,
    *,
    batch_size: int = 32,
    skipped: list[str] | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Images → float32 features `[N, d]` at the input of the classifier's head.

    Args:
        vision: the encoder.
        images: paths, PIL images or uint8 tensors, one or a list; float `[N, 3, H, W]`, already transformed;
            or float `[N, d]`, which are features and come back as they are.
        batch_size: images that go through the model together.
        skipped: where given, an image that cannot be read is left out and its error line put here, instead of
            raised.
        progress: called after every batch.

    Raises:
        HeadwordError: if an image cannot be read, if none can, or if the input is of no accepted kind.
    """
    if isinstance(images, Tensor) and images.is_floating_point() and images.ndim == 2:
        if images.shape[1] != vision.dim:
            raise HeadwordError(f"features must have shape [N, {vision.dim}], got {list(images.shape)}")
        return images.float().cpu()
    if isinstance(images, Tensor) and images.is_floating_point() and images.ndim == 4:
        batches: Iterator[Tensor] = iter(torch.split(images, batch_size))
        total = len(images)
    else:
        sources = images_of(images)
        batches, total = _decoded(vision, sources, batch_size, skipped), len(sources)
    parts = []
    done = 0
    for batch in batches:
        parts.append(vision.encode(batch))
        done += len(batch)
        if progress is not None:
            progress(done, total)
    if not parts:
        why = f": {skipped[0]}" if skipped else ""
        raise HeadwordError(f"none of {total} images could be read{why}" if total else "there are no images")
    return torch.cat(parts)


def _decoded(
    vision: VisionEncoder, sources: Sequence[ImageSource], batch_size: int, skipped: list[str] | None
) -> Iterator[Tensor]:
    """Transformed batches, the next one being decoded while the last is used."""

    def read(source: ImageSource) -> Tensor | HeadwordError:
        try:
            return vision.source.transform(load_image(source))
        except HeadwordError as error:
            return error

    chunks = [sources[start : start + batch_size] for start in range(0, len(sources), batch_size)]
    with ThreadPoolExecutor(min(8, cpu_count() or 1)) as pool:
        ahead = [pool.submit(read, source) for source in chunks[0]] if chunks else []
        for number in range(len(chunks)):
            current = ahead
            ahead = (
                [pool.submit(read, source) for source in chunks[number + 1]]
                if number + 1 < len(chunks)
                else []
            )
            images = []
            for outcome in (future.result() for future in current):
                if isinstance(outcome, Tensor):
                    images.append(outcome)
                elif skipped is None:
                    for future in ahead:
                        future.cancel()
                    raise outcome
                else:
                    skipped.append(str(outcome))
            if images:
                yield torch.stack(images)
