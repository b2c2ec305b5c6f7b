"""Files of scans and of results: paths, lists, formats, DICOM series, and the one way to write."""
