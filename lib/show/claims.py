"""What a chapter concludes about one of the paper's claims, shown as a box and kept in the notebook as JSON.

The site's claim table (`{claim-table}`) is made of these, so no answer is typed anywhere.
"""

import html
from dataclasses import dataclass

KEY = "book_verdict"  # in the metadata of the cell's output


@dataclass(frozen=True)
class Verdict:
    """A claim's answers, numbers and reading, with the checks behind them and the evidence by source."""

    judged: dict

    def _repr_mimebundle_(self, **_):
        judged, about = self.judged, self.judged["about"]
        head = f"Claim {judged['claim']}. Numbers: {judged['numbers']}. Reading: {judged['reading']}."
        evidence = [f"{e['source']} ({e['numbers']}): {e['text']}" for e in judged["evidence"]]
        parts = {
            f"Numbers, by {judged['evidence'][0]['source']}": marked(judged["checks"]["numbers"]),
            "Evidence": evidence,
            "Control": [about["control"], *marked(judged["checks"]["reading"]), judged["control"]],
            "When the criterion was written": [when(about)],
        }
        shown = "".join(f"<p><em>{html.escape(title)}</em></p>{listed(texts)}" for title, texts in parts.items())
        box = f'<div class="verdict {kind(judged)}"><p class="verdict-head">{head}</p>{shown}</div>'
        plain = "\n".join([head, *(f"{title}: {' '.join(texts)}" for title, texts in parts.items())])
        return {"text/html": box, "text/plain": plain}, {KEY: judged}


def marked(checks):
    """The sentences of checks, each with its outcome."""
    outcome = {True: "passes", False: "fails", None: "can't be said"}
    return [f"{text} ({outcome[passed]})" for text, passed in checks]


def listed(texts):
    """Texts as a list in HTML."""
    return "<ul>" + "".join(f"<li>{html.escape(text)}</li>" for text in texts) + "</ul>"


def when(about):
    """When the criterion was written, and what had been seen by then."""
    text = f"The claim's first criterion came with commit {about['written']}"
    text += f", this text with {about['changed']}." if about["changed"] else "."
    return f"{text} By then: {about['look']}" if about["look"] else text


def kind(judged):
    """Class of the box: by the reading."""
    return judged["reading"].replace(" ", "-")


def verdict(judged):
    """Box of a claim that `lib.study.verdicts` has judged; ValueError for something else."""
    missing = {"claim", "numbers", "reading", "evidence", "control", "checks", "about"} - set(judged)
    if missing:
        raise ValueError(f"this is no judged claim, it lacks {', '.join(sorted(missing))}: pass what a task returned")
    return Verdict(judged)
