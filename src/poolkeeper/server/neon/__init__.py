"""Neon's SQL-over-HTTP protocol as pure functions: request in, values across, answer out."""
