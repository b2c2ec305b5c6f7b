"""Brain scans of any contrast, generated from label maps."""
