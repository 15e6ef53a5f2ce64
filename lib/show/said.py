"""What the laboratory concludes about models, in plain words: each sentence with the number behind it."""

import math

VIEWS = RAW, CENTRED, DEFLATED = ("raw", "mean row removed", "frequency axis removed too")
SPARE = 0.5  # of the width: a head that costs under 0.1 nats at that rank has room
MIDDLE = 0.1  # nats, of the three costs that a rank is sought for


def verdict(numbers: dict) -> list[str]:
    """Sentences on each run along training and on each model, of a run on its last checkpoint."""
    models = ended(numbers)["models"]
    told = [f"{model['address']}: {one}" for model in models for one in of_model(model, numbers["normal"])]
    return [*along(numbers["series"]), *told]


def ended(numbers: dict) -> dict:
    """The numbers with only the last checkpoint of each run that is followed along training."""
    runs = {row["run"]: row["final_step"] for row in numbers["series"]}
    models = [
        model
        for model in numbers["models"]
        if (name := model["address"].partition("@step"))[0] not in runs or float(name[2]) == runs[name[0]]
    ]
    return numbers | {"models": models}


def of_model(model: dict, normal: dict) -> list[str]:
    """Sentences on one model."""
    return [
        *_untrained(model),
        _rank(model),
        _spectrum(model),
        _anisotropy(model, normal),
        _gradient(model),
        *_logits(model, normal),
    ]


def along(series: list[dict]) -> list[str]:
    """Sentences on the loss of runs: the detector's verdict."""
    said = []
    for run in series:
        word = "saturates" if run["saturated"] else f"does not saturate ({run['kind']})"
        said.append(f"{run['run']} {word}: {run['reason']}.")
    return said


def _untrained(model):
    loss, uniform = model["logits"]["loss"], math.log(model["shape"]["vocabulary"])
    if loss < uniform:
        return []
    return [
        f"its loss is {loss:.2f} nats, no less than the {uniform:.2f} of a guess at random: what follows says nothing "
        "of what it would be with training, or on a text that it knows."
    ]


def _rank(model):
    width, found = model["shape"]["width"], next(s for s in model["smallest"] if s["within"] == MIDDLE)
    cost = f"{found['cost']:.3f} nats (95 %: {found['low']:.3f} to {found['high']:.3f})"
    if found["rank"] == width:
        return (
            f"no lower rank that was tried stays within {MIDDLE:g} nats: the head uses all of its {width} dimensions."
        )
    use = "has room: its rank is no bottleneck" if found["share"] <= SPARE else "uses most of its width"
    return (
        f"cut to rank {found['rank']}, {found['share']:.0%} of its width, without any training, the head costs {cost}; "
        f"by this it {use}."
    )


def _spectrum(model):
    entropy = {row["view"]: row["entropy"] for row in model["entropies"]}
    rank = {row["view"]: row["effective_rank"] for row in model["entropies"]}
    gone = 1 - entropy[CENTRED] / entropy[RAW] if entropy[RAW] else 0.0
    mean = "most of that is the mean row, which a softmax can't see" if gone > 0.5 else "little of that is the mean row"
    mean = mean if gone > 0.5 or gone < 0.2 else f"{gone:.0%} of that is the mean row, which a softmax can't see"
    return (
        f"the spectrum of its head is {entropy[RAW]:.2f} nats from a flat one (effective rank {rank[RAW]:.0f}), "
        f"{entropy[CENTRED]:.2f} without its mean row (effective rank {rank[CENTRED]:.0f}): {mean}."
    )


def _anisotropy(model, normal):
    last, before = model["layers"][-1], model["layers"][-2]
    side = "above" if last["low"] > normal["anisotropic"] else "below" if last["high"] < normal["anisotropic"] else "at"
    alike = {
        "above": "like those of the paper's narrow Pythias",
        "below": "like those of the paper's wide Pythias",
        "at": "between the paper's narrow and wide models",
    }[side]
    return (
        f"the states that enter its head have a mean cosine of {last['anisotropy']:.2f} "
        f"({last['low']:.2f} to {last['high']:.2f}; {before['anisotropy']:.2f} before the last norm), "
        f"{side} {normal['anisotropic']:g}: {alike}."
    )


def _gradient(model):
    seen = model["logits"]
    times = seen["passed"] / seen["chance"]
    return (
        f"its head passes on {seen['passed']:.1%} of the length of the logits' gradient "
        f"({seen['passed_low']:.1%} to {seen['passed_high']:.1%}), {times:.1f} times the {seen['chance']:.1%} that "
        "a random direction would keep."
    )


def _logits(model, normal):
    seen, said = model["logits"], []
    said.append(
        f"its mean logit is {seen['offset']:+.1f} and its largest {seen['largest']:.1f}, where numbers of fp16 lie "
        f"{seen['spacing_fp16']:.2g} apart and those of bf16 {seen['spacing_bf16']:.2g}."
    )
    for name in ("fp16", "bf16"):
        cost, low, high = (seen[f"cost_{name}{end}"] for end in ("", "_low", "_high"))
        word = "more than" if low > normal["harm"] else "less than" if high < normal["harm"] else "perhaps more than"
        between = f"{cost:.5f} nats ({low:.5f} to {high:.5f})"
        said.append(f"storing its logits in {name} costs {between}, {word} the {normal['harm']:g} that count here.")
    drifts = abs(seen["offset"]) > 3 * seen["spread"] and abs(seen["offset"]) > 8
    word = "has an offset that a softmax can't see" if drifts else "shows no offset worth the name"
    said.append(
        f"it {word}: the mean logit is {seen['offset']:+.1f} with a deviation of {seen['spread']:.1f} over positions; "
        f"a gradient stored in fp16 would lose {seen['delta_1']:.1e} of its sum at kappa 1 and {seen['delta_16']:.1e} "
        f"at 1/16, which pushes the mean logit {'up' if seen['delta_16'] > 0 else 'down'}."
    )
    return said
