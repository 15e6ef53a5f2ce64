"""What a sweep will cost: bytes to download before it starts, hours as soon as one of its tasks has been measured."""

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
    """Estimates from the sizes of checkpoints and the seconds of the tasks done so far."""

    def __init__(self, pending: list[Call], device: str):
        sizes: dict[str, int] = {}
        self.device, self.bytes = device, {wanted.key: _download(wanted, sizes) for wanted in pending}
        self.rates: list[float] = []

    def measured(self, wanted: Call, seconds: float) -> None:
        """Take note of what a task took."""
        self.rates.append(seconds / (self.bytes[wanted.key] or 1))  # a second for each byte, or for each task

    def cost(self) -> Cost:
        """Of all tasks together."""
        work = sum(count or 1 for count in self.bytes.values())
        seconds = work * sum(self.rates) / len(self.rates) if self.rates else None
        return Cost(len(self.bytes), sum(self.bytes.values()), seconds, self.device)


def _download(wanted, sizes):
    """Bytes of the hub's checkpoints that a call names; the revisions of a repository are all of one size."""
    listed = [wanted.parameters.get("address"), *(wanted.parameters.get("addresses") or [])]
    addresses = [address for address in listed if address and "/" in address and address[0] not in "./"]
    for address in addresses:
        repository = address.partition("@")[0]
        if repository not in sizes:
            from lib.data import checkpoints  # brings torch along

            sizes[repository] = checkpoints.download_size(address)["model"]
    return sum(sizes[address.partition("@")[0]] for address in addresses)
