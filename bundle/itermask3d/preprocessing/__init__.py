"""The way from a raw scan to the network's grid, and exactly back."""
