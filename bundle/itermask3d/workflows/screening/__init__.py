"""Screening a cohort: one scan after the other, on one machine or on many."""
