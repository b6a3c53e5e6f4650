"""Transactions that take effect exactly once, and calls that are made again."""
