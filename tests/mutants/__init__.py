"""Mutation testing (docs/mutants.md)."""
