"""Breaks a database in every way it can break, and measures what the clients of a pool notice.

`poolkeeper drill` and ``benchmarks/outages.py`` are two faces of it: faults (``faults``) happen to
a database (``arena``) while clients (``clients``) use a pool (``contender``); ``engine`` runs one
fault against one pool, ``measuring`` makes figures of the clients' account, ``report`` and ``plot``
make pages of the figures.
"""
