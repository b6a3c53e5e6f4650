"""The commands of operations: load, backfill, export, operations and worker."""
