"""What every layer, the push through a graph, and the search must keep, checked against the oracles."""
