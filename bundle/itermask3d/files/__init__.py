"""Where scans come from and results go: paths, formats, DICOM series, and what was read of them."""
