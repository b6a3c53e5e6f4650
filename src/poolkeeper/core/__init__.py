"""What the pool decides, without doing it: no event loop, no driver, no clock.

Time arrives as an argument, randomness as a ``random.Random``, and everything that has to happen
leaves as an effect. The rest of the package carries effects out and reports back.
"""
