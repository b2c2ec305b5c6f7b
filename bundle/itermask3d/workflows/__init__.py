"""Long runs over many scans, which go on where they were interrupted."""
