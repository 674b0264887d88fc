"""Bases that come with the package, so that every recipe can be tried without a download.

A base here is a complete folder in the layout of the stock checkpoints; nothing in this package imports the
stock classes, and nothing here trains.
"""
