"""Pictures, captions and vectors on disk, read into plain Python and torch objects."""
