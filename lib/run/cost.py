"""What a sweep will cost: bytes to download before it starts, hours as soon as one of its tasks has been measured."""

from collections.abc import Iterable
from dataclasses import dataclass

from lib.data.cache import size
from lib.run.calls import Call

BYTES = 20e9  # a sweep that needs more asks first
HOURS = 2.0


@dataclass(frozen=True)
class Cost:
    """Of the tasks that have no record yet."""

    tasks: int
    bytes: int  # at most: of whole checkpoints, where a task may need only the head
    seconds: float | None  # of work, whatever the number of workers; None before anything was measured
    device: str  # "CPU" or "GPU"

    def __str__(self) -> str:
        hours = "an unknown time" if self.seconds is None else f"about {self.seconds / 3600:.2g} {self.device}-hours"
        return f"{self.tasks} tasks, at most {size(self.bytes)} to download, {hours}"

    def check(self, yes: bool) -> None:
        """Raise ValueError where the cost is high and nobody said yes to it."""
        if not yes and (self.bytes > BYTES or (self.seconds or 0) > HOURS * 3600):
            raise ValueError(
                f"this sweep needs {self}, more than the {size(BYTES)} or {HOURS:g} hours that are spent unasked: "
                "say --yes (in a chapter, YES=1), or choose a smaller grid"
            )


class Meter:
    """Estimates from the bytes that each task may download, by key, and the seconds of those done so far."""

    def __init__(self, downloads: dict[str, int], device: str):
        self.downloads, self.device, self.rates = downloads, device, []
        # A larger checkpoint takes longer; where some are in the cache already, nothing says how large those are.
        self.weights = downloads if all(downloads.values()) else dict.fromkeys(downloads, 1)

    def measured(self, key: str, seconds: float) -> None:
        """Take note of what a task took."""
        self.rates.append(seconds / self.weights[key])

    def cost(self) -> Cost:
        """Of all tasks together."""
        seconds = sum(self.weights.values()) * sum(self.rates) / len(self.rates) if self.rates else None
        return Cost(len(self.downloads), sum(self.downloads.values()), seconds, self.device)


def downloads(pending: Iterable[Call]) -> dict[str, int]:
    """Bytes of the hub's checkpoints that each call may fetch, by its key.

    The first checkpoint of a repository that is not in the cache speaks for its other revisions.
    """
    sizes: dict[str, int] = {}
    return {wanted.key: sum(_bytes(address, sizes) for address in _hub_addresses(wanted)) for wanted in pending}


def _hub_addresses(wanted):
    listed = [wanted.parameters.get("address"), *(wanted.parameters.get("addresses") or [])]
    return [address for address in listed if address and "/" in address and address[0] not in "./~"]


def _bytes(address, sizes):
    repository = address.partition("@")[0]
    if repository in sizes:
        return sizes[repository]
    from lib.data import checkpoints  # brings torch along

    found = checkpoints.download_size(address)["model"]
    if found:
        sizes[repository] = found
    return found
