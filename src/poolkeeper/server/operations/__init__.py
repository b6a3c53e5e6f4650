"""``/v1/operations``: create, watch and control long work, and carry it out beside the requests."""
