"""A result for a reader: HTML, JSON, DICOM."""
