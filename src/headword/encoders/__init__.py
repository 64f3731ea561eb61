"""Frozen encoders: image classifiers with their heads, and text encoders."""

from headword.encoders.text import TextEncoder, TextSource, load_text
from headword.encoders.vision import Labels, VisionEncoder, VisionSource, load_vision

__all__ = ["Labels", "TextEncoder", "TextSource", "VisionEncoder", "VisionSource", "load_text", "load_vision"]
