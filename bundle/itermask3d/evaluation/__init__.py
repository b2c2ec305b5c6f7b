"""What the results are worth: cases, metrics, tables, the page."""
