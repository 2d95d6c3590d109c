"""Scores to labels, and whether labels can be believed; without a truth to compare with."""
