"""Layers, pushes and searches with one thing wrong each, which the contracts must reject."""
