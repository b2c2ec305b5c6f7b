"""Losses, handlers, data sets and augmentation of a training."""
