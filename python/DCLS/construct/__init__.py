"""Layers of the original package that construct a dense kernel."""
