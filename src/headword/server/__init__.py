"""The page and the HTTP API of an index, on loopback."""
