"""What the library's bounds are compared with: other code, other arithmetic, no code of the library's bounds."""
