"""Backfill: change or delete the rows of a table, range of keys by range of keys.

- ``options``: what the user may say, checked.
- ``prepare``: the same against the database; the result is the spec of the operation.
- ``fragments``: SQL of the user's that must be what it says it is.
- ``sql``: the statements of a chunk; pure.
- ``position``: how far it is; what a checkpoint holds.
- ``standbys``: how far standbys are behind; pure.
- ``run``: one claimed run.
"""
