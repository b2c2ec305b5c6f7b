"""Simulated acquisition faults over a scale of severity."""
