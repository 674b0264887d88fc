"""YAML with the place of every node: read, compose, write."""
