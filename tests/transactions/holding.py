"""A COMMIT that stays open for as long as a test likes: a deferred trigger waits for a lock."""

from contextlib import asynccontextmanager

HOLD = """
CREATE SEQUENCE commits;
CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF nextval('commits') <= %d THEN
        PERFORM pg_advisory_xact_lock(42);
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER hold AFTER INSERT ON done DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION hold();
"""
HELD = "state = 'active' AND wait_event = 'advisory'"
"""True of the session whose COMMIT is being held."""


class Held:
    """Lets the held COMMITs go on."""

    def __init__(self, admin) -> None:
        self._admin = admin
        self._holding = False

    async def hold(self) -> None:
        await self._admin.execute("SELECT pg_advisory_lock(42)")
        self._holding = True

    async def let_go(self) -> None:
        if self._holding:
            self._holding = False
            await self._admin.execute("SELECT pg_advisory_unlock(42)")


@asynccontextmanager
async def held_commits(rig, *, first: int = 1):
    """Hold the ``first`` COMMITs of transactions that write to ``done``."""
    await rig.admin.execute(HOLD % first)
    held = Held(rig.admin)
    await held.hold()
    try:
        yield held
    finally:
        await held.let_go()
