"""Segment documents, predicates, features and time: pure functions, no I/O and no clock."""
