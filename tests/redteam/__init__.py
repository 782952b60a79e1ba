"""Independent attempts to prove the library wrong."""
