"""Numbers for a chapter's prose: named once, and read there with the glue role."""

from collections.abc import Mapping

import myst_nb


def tell(prefix: str, values: Mapping) -> None:
    """Name values for prose: PREFIX-NAME for each, PREFIX-NAME-INNER where a value is a mapping itself.

    NumPy's scalars become Python's, which formats such as `.2f` and `:d` need. Raises ValueError for a name twice.
    """
    flat = list(_flat(prefix, values))
    names = [name for name, _ in flat]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{', '.join(twice)} is told twice: give each number its own name.")
    for name, value in flat:
        myst_nb.glue(name, value, display=False)


def _flat(prefix, values):
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(f"{prefix}-{name}", value)
        else:
            yield f"{prefix}-{name}", value.item() if hasattr(value, "item") else value
