"""Files of scans and of results: paths, lists, formats, DICOM series, what was read, and the one way to write."""
