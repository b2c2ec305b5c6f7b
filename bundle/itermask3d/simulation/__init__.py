"""Everything artificial: parameters are drawn first, then applied."""
