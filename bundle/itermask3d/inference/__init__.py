"""One model, one scan, one result."""
