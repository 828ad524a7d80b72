"""Predictions -> scores, what the scores mean, and the report."""
