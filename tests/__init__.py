"""Tests: a mirror of the packages, the contract suites, the real broker and the house rules."""
