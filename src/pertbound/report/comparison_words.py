"""A comparison in tables and sentences, rounded so that what is said stays true."""

from __future__ import annotations

from pertbound.comparison import Comparison, Interval, MoreSamples, Pair, Place, Tighten, Verdict
from pertbound.report.grid import Grid
from pertbound.report.rounding import down, duration, up

_SHOWN = 5
"""Samples that a sentence names."""


def model_grid(of: Comparison) -> Grid:
    """One line for each model, the most robust first: what is known of its mean radius."""
    models = {model.name: model for model in of.models}
    rows = tuple(
        (
            place.model,
            ranks(place),
            percent(models[place.model].accuracy),
            str(models[place.model].uncertified),
            str(models[place.model].without_witness),
            *_between(models[place.model].mean, None),
        )
        for place in of.ranking()
    )
    limits = f"{percent(of.confidence)} limits"
    header = ("model", "rank", "accuracy", "not certified", "no witness", "mean radius", limits)
    cap = "given" if of.cap_given else "the largest finite bound"
    caption = f"Mean {of.norm} radius on {len(of.samples):,} samples, each counted up to {of.cap:.3g} ({cap})"
    if not of.against_labels:  # every prediction counts as right: there is no accuracy
        header, rows = (*header[:2], *header[3:]), tuple((*row[:2], *row[3:]) for row in rows)
    return Grid(caption, header, rows)


def accuracy_grid(of: Comparison) -> Grid | None:
    """One line for each model and radius asked about; None where there is none."""
    if not of.radii:
        return None
    rows: list[tuple[str, ...]] = []
    for i, radius in enumerate(of.radii):
        accuracies = {model.name: model.accuracies[i] for model in of.models}
        for place in of.ranking(radius):
            rows.append((place.model, f"{radius:g}", ranks(place), *_between(accuracies[place.model], radius)))
    header = ("model", "radius", "rank", "robust accuracy", f"{percent(of.confidence)} limits")
    return Grid(f"Robust accuracy: certified to attacked, of {len(of.samples):,} samples", header, tuple(rows))


def pair_grid(of: Comparison) -> Grid:
    """One line for each pair of models and each question: the difference, and what it tells."""
    rows: list[tuple[str, ...]] = []
    for pair in of.pairs:
        ahead = f"{percent(pair.first_ahead)} / {percent(pair.second_ahead)}"
        ends = _between(pair.difference, pair.radius)
        rows.append((f"{pair.first} less {pair.second}", question(pair.radius), verdict(pair), *ends, ahead))
    header = ("models", "by", "verdict", "difference", f"{percent(of.confidence)} limits, all together", "ahead on")
    caption = (
        "Differences. Ahead on: samples where one's certificate reaches beyond the other's witness (first / second)"
    )
    return Grid(caption, header, tuple(rows), text_columns=3)


def sentences(of: Comparison) -> list[str]:
    """The rankings, what it would cost to tell the models that cannot be told apart, and what else must be known."""
    found = [_ranking(of, radius) for radius in (None, *of.radii)]
    found += [_cost(pair) for pair in of.pairs if pair.cost is not None]
    scale = of.pixel_scale
    pixels = "" if scale is None or scale == 1 else f" (times {scale:g} for the data's own)"
    found.append(f"Radii are {of.norm} over {of.domain}, in units of the raw input{pixels}.")
    if of.against_labels:
        found.append("Against labels: a misclassified sample has radius 0.")
    return found + list(of.notes)


def question(radius: float | None) -> str:
    """What models are compared by."""
    return "mean radius" if radius is None else f"accuracy at {radius:g}"


def verdict(pair: Pair) -> str:
    """The verdict in words."""
    return {
        Verdict.FIRST: f"{pair.first} more robust",
        Verdict.SECOND: f"{pair.second} more robust",
        Verdict.OVERLAP: "cannot tell: the brackets overlap",
        Verdict.FEW: "cannot tell: too few samples",
    }[pair.verdict]


def ranks(place: Place) -> str:
    """The ranks that a model can have."""
    return str(place.best) if place.best == place.worst else f"{place.best} to {place.worst}"


def percent(share: float) -> str:
    """A share of samples, or a confidence.

    >>> percent(0.95), percent(1 / 3)
    ('95 %', '33.3 %')
    """
    return f"{100 * share:.4g} %" if round(100 * share, 9).is_integer() else f"{100 * share:.1f} %"


def _ranking(of: Comparison, radius: float | None) -> str:
    places = of.ranking(radius)
    if not any(place.above for place in places):
        return f"Ranking by {question(radius)}: cannot tell any two apart."
    return f"Ranking by {question(radius)}: {', '.join(f'{ranks(place)} {place.model}' for place in places)}."


def _cost(pair: Pair) -> str:
    told = f"{pair.first} and {pair.second} by {question(pair.radius)}: {verdict(pair)}."
    return f"{told} {_narrower(pair, pair.cost) if isinstance(pair.cost, Tighten) else _more(pair.cost)}"


def _narrower(pair: Pair, cost: Tighten) -> str:
    other = pair.second if cost.towards == pair.first else pair.first
    if pair.radius is None:
        needs = (
            f"its certificates would have to rise and the witnesses of {other} to come nearer, by {up(cost.by)} in all"
        )
    else:
        needs = f"its certificates or witnesses of {other} would have to decide {percent(cost.by)} more of the samples"
    text = f"{cost.towards} is nearer to being shown more robust: {needs}"
    if cost.share >= 1:
        return f"{text}, which is more than the brackets leave open: it takes more samples as well."
    named = ", ".join(str(sample) for sample in cost.samples[:_SHOWN])
    some = f"{named}{', ...' if len(cost.samples) > _SHOWN else ''}"
    text += f" ({percent(cost.share)} of what is open; {len(cost.samples):,} samples at least: {some})"
    if cost.seconds is None:
        return f"{text}. No two methods in these runs show at what pace that goes."
    return f"{text}. At the pace so far that is {duration(cost.seconds)} of computing, and the pace falls."


def _more(cost: MoreSamples | None) -> str:
    if cost is None or cost.count is None:
        return "These samples show no difference; how many would is not known."
    text = (
        f"Narrower brackets or about {cost.count:,} more samples would tell, if {cost.towards} is as far ahead on those"
    )
    return (
        f"{text}." if cost.seconds is None else f"{text}: {duration(cost.seconds)} of computing with the same methods."
    )


def _between(interval: Interval, radius: float | None) -> tuple[str, str]:
    """What the brackets leave open, and with chance; at a radius these are shares of samples."""
    known, limits = (interval.lower, interval.upper), (interval.lower_limit, interval.upper_limit)
    return _span(*known, radius), _span(*limits, radius)


def _span(low: float, high: float, radius: float | None) -> str:
    left, right = (down(low), up(high)) if radius is None else (percent(low), percent(high))
    return left if left == right else f"{left} to {right}"
