"""shapes: a generated set of coloured shapes, made to ask what a model sees of a picture.

Nothing is stored: `Shapes(split)[index]` is a pure function of (seed, split, index). See docs/shapes.md.
"""

from headword.data.shapes.questions import ATTRIBUTES, Question, questions
from headword.data.shapes.scene import COLOURS, RELATIONS, SHAPES, SIZES, Group, Scene, held_out
from headword.data.shapes.shapes import Example, Shapes

__all__ = [
    "ATTRIBUTES",
    "COLOURS",
    "RELATIONS",
    "SHAPES",
    "SIZES",
    "Example",
    "Group",
    "Question",
    "Scene",
    "Shapes",
    "held_out",
    "questions",
]
