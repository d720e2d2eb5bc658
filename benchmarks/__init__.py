"""Measurements and comparisons that are run by hand; no part of the package."""
