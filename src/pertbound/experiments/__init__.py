"""Studies: the paper's first, and the measuring that they and the command line share."""
