"""Inputs on this machine, read without torch: bases, manifests, evaluators, documents."""
