"""Real pictures for the demo, from packages that pip has installed: no download, nothing of ours to carry.

The files are read from the packages' folders; the packages themselves are not imported.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from headword.errors import MissingExtraError


class GalleryPicture(NamedTuple):
    """A picture of the gallery: one word for it, its file, what it shows, and who made it."""

    name: str
    path: Path
    title: str
    credit: str


_SKIMAGE = ("skimage", "data")
_SKLEARN = ("sklearn", "datasets", "images")
_MIDDLEBURY = "Middlebury stereo data set 2014, D. Scharstein et al."

# Credits are from the packages' own documentation of the files.
_PICTURES = (
    ("astronaut", _SKIMAGE, "astronaut.png", "An astronaut in her orange suit", "NASA, public domain"),
    ("cat", _SKIMAGE, "chelsea.png", "A tabby cat", "Stéfan van der Walt, CC0"),
    ("coffee", _SKIMAGE, "coffee.png", "A cup of coffee", "Rachel Michetti / Pikolo Espresso Bar, CC0"),
    ("rocket", _SKIMAGE, "rocket.jpg", "A rocket before its launch", "SpaceX, public domain"),
    ("motorcycle", _SKIMAGE, "motorcycle_left.png", "A motorcycle in a garage", _MIDDLEBURY),
    ("temple", _SKLEARN, "china.jpg", "A temple above a lake", "danielbuechele (Flickr), CC BY 2.0"),
    ("flower", _SKLEARN, "flower.jpg", "A dahlia", "vultilion (Flickr), CC BY 2.0"),
    ("photographer", _SKIMAGE, "camera.png", "A photographer and his tripod", "Lav Varshney, CC0"),
    ("horse", _SKIMAGE, "horse.png", "The silhouette of a horse", "Andreas Preuss, CC0"),
    ("coins", _SKIMAGE, "coins.png", "Greek coins from Pompeii", "Brooklyn Museum, no known restrictions"),
    ("page", _SKIMAGE, "page.png", "A printed page", "scikit-image, BSD-3-Clause"),
    ("galaxies", _SKIMAGE, "hubble_deep_field.jpg", "The Hubble deep field", "NASA, public domain"),
    ("retina", _SKIMAGE, "retina.jpg", "The retina of an eye", "Mikael Häggström, CC0"),
    ("bricks", _SKIMAGE, "brick.png", "A brick wall", "CC0 Textures, CC0"),
)


def gallery() -> list[GalleryPicture]:
    """The demo's pictures, in a fixed order; those that an installed version no longer ships are left out.

    Raises:
        MissingExtraError: if scikit-image or scikit-learn is not installed.
    """
    folders = {parts: _folder(*parts) for parts in (_SKIMAGE, _SKLEARN)}
    pictures = [
        GalleryPicture(name, folders[parts] / file, title, credit)
        for name, parts, file, title, credit in _PICTURES
    ]
    return [picture for picture in pictures if picture.path.is_file()]


def _folder(package: str, *below: str) -> Path:
    spec = find_spec(package)  # finds a top-level package without importing it
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError("the gallery of example pictures", "embedded")
    return Path(spec.submodule_search_locations[0]).joinpath(*below)
