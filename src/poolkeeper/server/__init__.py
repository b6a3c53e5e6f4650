"""The pool behind HTTP: Neon's SQL-over-HTTP protocol, probes and metrics."""
