"""Profiles set what chapters have, in their types, and the paper's names the hub's models and corpora."""

import pytest

from lib.data import checkpoints, corpora
from lib.run import chapter
from lib.run.parameters import fitted, load, own, profile_values

SAMPLES = {path.stem: own(chapter.read(path)) for path in chapter.chapters()}


def values(profile):
    """All that a profile sets, by chapter."""
    return load((chapter.BOOK / "profiles" / f"{profile}.yml").read_text())


def words():
    """Every text in the paper's profile, wherever it stands."""
    waiting = [values("paper")]
    while waiting:
        value = waiting.pop()
        if isinstance(value, (dict, list)):
            waiting += value.values() if isinstance(value, dict) else value
        elif isinstance(value, str):
            yield value


@pytest.mark.parametrize("profile", ["smoke", "paper"])
def test_profiles_fit_their_chapters(profile):
    """A misspelt line in a profile would otherwise be found hours into a run."""
    assert set(values(profile)) <= set(SAMPLES)
    for name, samples in SAMPLES.items():
        assert fitted(chapter.overrides(profile, name), samples) == values(profile).get(name, {})


def test_the_type_of_every_parameter_is_known():
    assert not [(name, parameter) for name, own in SAMPLES.items() for parameter in own if not own[parameter]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("toy: {rank: 010, text: no, clock: 1:30}", {"rank": 10, "text": "no", "clock": "1:30"}),
        ("toy:\nother: {rank: 3}", {}),
        ("# nothing", {}),
        ("toy: 3", "holds 3 where parameters by chapter and name are expected"),
        ("[toy]", r"toy.yml holds \['toy'\] where parameters"),
        ("toy: {rank: 1}\ntoy: {rank: 2}", "toy.yml can't be read: this is not YAML in line 2: a name given twice"),
        ("toy: [", "toy.yml can't be read: this is not YAML in line 1"),
    ],
)
def test_what_a_profile_may_say(tmp_path, text, expected):
    path = tmp_path / "toy.yml"
    path.write_text(text)
    if isinstance(expected, dict):
        assert profile_values(path, "toy") == expected
    else:
        with pytest.raises(ValueError, match=expected):
            profile_values(path, "toy")


def test_models_and_corpora_are_the_hubs():
    models = [word for word in words() if "/" in word or "@" in word]
    texts = [word for word in words() if word.startswith("hub:")]
    assert len(models) > 20 and texts
    assert {checkpoints.parse(word).kind for word in models} == {"hub"}
    assert set(texts) <= set(corpora.HUB_NAMES)
    assert not [word for word in words() if word.startswith("suite:")]
