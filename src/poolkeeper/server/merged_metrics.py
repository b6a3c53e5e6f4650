"""The metrics of several processes as one scrape, told apart by the label ``process``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.registry import Collector

from poolkeeper.observability.prometheus import exposition

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping


def dump(families: Iterable[Metric]) -> list[Any]:
    """Metric families as what JSON can hold."""
    return [
        [
            family.name,
            family.documentation,
            family.type,
            family.unit,
            [[sample.name, sample.labels, sample.value] for sample in family.samples],
        ]
        for family in families
    ]


def merged(dumps: Mapping[int, list[Any]], accept: str | None) -> tuple[str, bytes]:
    """Content type and body for a scrape of all processes, from the dump of each by its number."""
    registry = CollectorRegistry()
    registry.register(_Merged(dumps))
    return exposition(registry, accept)


class _Merged(Collector):
    def __init__(self, dumps: Mapping[int, list[Any]]) -> None:
        self._dumps = dumps

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for number, dumped in sorted(self._dumps.items()):
            for name, documentation, kind, unit, samples in dumped:
                family = families.get(name)
                if family is None:
                    family = families[name] = Metric(name, documentation, kind, unit)
                for sample, labels, value in samples:
                    family.add_sample(sample, {**labels, "process": str(number)}, value)
        yield from families.values()
