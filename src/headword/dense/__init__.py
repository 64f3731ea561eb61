"""Where in a picture: features a place, maps of words, and what is read off them: boxes, masks, pictures."""

from headword.dense.maps import Locator

__all__ = ["Locator"]
