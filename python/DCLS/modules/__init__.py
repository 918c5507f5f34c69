"""Layers of 2021 whose out channels share positions."""
