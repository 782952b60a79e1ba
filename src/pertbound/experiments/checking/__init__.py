"""The parts of a check: one file for each thing that is held against the model, the data, or another file."""
