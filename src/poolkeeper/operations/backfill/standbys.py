"""How far standbys are behind; pure.

``replay_lag`` of ``pg_stat_replication`` alone will not do: it stands still while replay does, and
goes on telling of an old delay after it. So the worker remembers where the WAL was when.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

QUERY: Final = """
select h.here, s.*
  from (select case when not pg_is_in_recovery()
                    then pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint end as here) h
  left join lateral
       (select coalesce(nullif(application_name, ''), client_addr::text, 'a standby') as name,
               pg_wal_lsn_diff(replay_lsn, '0/0')::bigint as replayed,
               extract(epoch from replay_lag)::float8 as lag
          from pg_stat_replication
         where state in ('streaming', 'catchup') and replay_lsn is not null) s
    on h.here is not null"""
"""One row per standby; one without a standby if there is none, or none that this role may see."""

MOST_SAMPLES: Final = 1000


@dataclass(frozen=True, slots=True)
class Standby:
    """A standby as the primary sees it.

    Attributes:
        name: Its ``application_name``.
        replayed: Where it is in the WAL.
        lag: What the primary has measured last, in seconds.
    """

    name: str
    replayed: int
    lag: float | None = None


@dataclass(frozen=True, slots=True)
class Behind:
    """The standby that is furthest behind.

    Attributes:
        name: Which.
        seconds: By how much, at least.
    """

    name: str
    seconds: float


class Standbys:
    """Remembers where the WAL was when."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def observe(self, now: float, here: int, standbys: Iterable[Standby]) -> Behind | None:
        """How far the slowest is behind; None if there is none, or all are up to date.

        Args:
            now: By any clock that goes forward.
            here: Where the WAL is.
            standbys: Every standby there is.
        """
        samples, everyone = self._samples, list(standbys)
        latest = samples[-1][0] if samples else now
        worst: Behind | None = None
        for standby in everyone:
            since = next((at for at, lsn in samples if lsn > standby.replayed), None)
            if since is None:
                # It has all there was when this was asked last. On the first time nothing is known.
                seconds = (standby.lag or 0.0) if not samples and standby.replayed < here else 0.0
            else:
                seconds = max(now - since, standby.lag or 0.0 if since < latest else 0.0)
            if seconds > 0.0 and (worst is None or seconds > worst.seconds):
                worst = Behind(standby.name, seconds)
        reached = min((standby.replayed for standby in everyone), default=here)
        while samples and samples[0][1] <= reached:
            samples.popleft()
        if not samples or samples[-1][1] < here:
            samples.append((now, here))
        if len(samples) > MOST_SAMPLES:
            # The oldest one counts; between them it may be coarse.
            self._samples = deque(list(samples)[::2])
        return worst
