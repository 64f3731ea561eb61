"""How heads, images and words lie to each other: tensors in, plain numbers and pictures out.

cosine.py      the head's rows as a nearest-prototype classifier, beside the classifier itself
neighbours.py  shared neighbours of class representations and class names
gap.py         the gap between rows and images: test, separability, picture, corrections
figures.py     charts as data, and their drawing
"""
