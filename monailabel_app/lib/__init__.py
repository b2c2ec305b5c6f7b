"""The parts of the MONAI Label app; MONAI Label loads them as ``lib`` beside ``main.py``."""
