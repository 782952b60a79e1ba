"""The command line: flags to dataclasses, one call, and what a person sees of it."""
