"""A classifier's head: finding and checking it, the names of its classes, WordNet."""
