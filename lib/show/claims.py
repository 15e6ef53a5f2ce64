"""A verdict on one of the paper's claims, shown as a box and kept in the notebook as JSON.

The site's claim table (`{claim-table}`) is made of these, so no verdict is typed anywhere.
"""

import html
from dataclasses import asdict, dataclass

VERDICTS = ("supported", "partly supported", "not supported", "not tested")
KEY = "book_verdict"  # in the metadata of the cell's output


@dataclass(frozen=True)
class Verdict:
    """What a chapter concludes about a claim, by which criterion, from which numbers."""

    claim: str
    verdict: str
    criterion: str
    evidence: str

    def _repr_mimebundle_(self, **_):
        kind = self.verdict.replace(" ", "-")
        box = (
            f'<div class="verdict {kind}"><p class="verdict-head">Claim {self.claim}: '
            f"<strong>{self.verdict}</strong></p>"
            f"<p><em>Criterion.</em> {html.escape(self.criterion)}</p>"
            f"<p><em>Evidence.</em> {html.escape(self.evidence)}</p></div>"
        )
        plain = f"{self.claim}: {self.verdict}. Criterion: {self.criterion} Evidence: {self.evidence}"
        return {"text/html": box, "text/plain": plain}, {KEY: asdict(self)}


def verdict(claim, verdict, *, criterion, evidence):
    """Verdict on a claim (C1 to C10), one of `VERDICTS`; ValueError otherwise."""
    if claim not in {f"C{k}" for k in range(1, 11)}:
        raise ValueError(f"there is no claim {claim!r}; the paper's claims are C1 to C10")
    if verdict not in VERDICTS:
        raise ValueError(f"verdict {verdict!r} is not one of {', '.join(VERDICTS)}")
    return Verdict(claim, verdict, criterion, evidence)
