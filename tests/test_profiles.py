"""The paper profile names models and corpora of the hub by addresses that can be read."""

import yaml

from lib.data import checkpoints, corpora
from lib.run import chapter


def words():
    """Every text in the profile, wherever it stands."""
    waiting = [yaml.safe_load((chapter.BOOK / "profiles" / "paper.yml").read_text())]
    while waiting:
        value = waiting.pop()
        if isinstance(value, (dict, list)):
            waiting += value.values() if isinstance(value, dict) else value
        elif isinstance(value, str):
            yield value


def test_models_and_corpora_are_the_hubs():
    models = [word for word in words() if "/" in word or "@" in word]
    texts = [word for word in words() if word.startswith("hub:")]
    assert len(models) > 20 and texts
    assert {checkpoints.parse(word).kind for word in models} == {"hub"}
    assert set(texts) <= set(corpora.HUB_NAMES)
    assert not [word for word in words() if word.startswith("suite:")]
