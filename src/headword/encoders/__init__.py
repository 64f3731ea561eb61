"""Frozen encoders: image classifiers with their heads, and text encoders."""

from headword.encoders.load import load_text, load_vision
from headword.encoders.text import TextEncoder, TextSource
from headword.encoders.vision import Labels, VisionEncoder, VisionSource

__all__ = ["Labels", "TextEncoder", "TextSource", "VisionEncoder", "VisionSource", "load_text", "load_vision"]
