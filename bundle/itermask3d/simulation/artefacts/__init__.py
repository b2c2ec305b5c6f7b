"""Simulated acquisition artefacts over a scale of severity."""
