"""``poolkeeper check``: find out, step by step, what keeps a database from being used."""
