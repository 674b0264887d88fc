"""Bundles: what is handed on. Built from a base and a delta, verified by anyone, described by a model card."""
