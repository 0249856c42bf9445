"""Parameter search: worked examples of grids, draws, proposals, windows, objectives and diagnosis."""

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import times
from engine.errors import Invalid
from engine.sweep import Dimension, Search, Tried, best, diagnostics, read_parameters, score, split

FAST = Dimension(name="fast", kind="int_range", low=2, high=6)
RATE = Dimension(name="rate", kind="float_range", low=0.0, high=1.0)
TINY = Dimension(name="tiny", kind="log_uniform", low=0.001, high=10.0)
SIDE = Dimension(name="side", kind="choice", values=("long", "short"))


def day(text: str) -> int:
    return times.micros(times.parse(text))


def test_a_grid_varies_its_last_parameter_fastest_and_stops_at_max_trials() -> None:
    search = Search(dimensions=(FAST, SIDE), method="grid", steps=3, max_trials=5)
    assert search.points() == [
        {"fast": 2, "side": "long"}, {"fast": 2, "side": "short"}, {"fast": 4, "side": "long"},
        {"fast": 4, "side": "short"}, {"fast": 6, "side": "long"}]


def test_grid_values_are_rounded_and_unique_for_whole_numbers_and_geometric_for_logarithms() -> None:
    assert FAST.grid(9) == [2, 3, 4, 5, 6]  # 2.5 rounds to 2, 3.5 to 4
    assert RATE.grid(5) == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert TINY.grid(5) == pytest.approx([0.001, 0.01, 0.1, 1.0, 10.0])
    assert SIDE.grid(1) == ["long", "short"]


def test_a_random_search_has_no_point_twice_and_gives_up_when_the_space_is_exhausted() -> None:
    points = Search(dimensions=(FAST, SIDE), method="random", max_trials=50, seed=3).points()
    assert len(points) == 10
    assert len({tuple(point.values()) for point in points}) == 10


def test_random_draws_are_those_of_pythons_own_generator() -> None:
    rng = random.Random(42)
    expected = [{"fast": rng.randint(2, 6), "rate": rng.uniform(0.0, 1.0)} for _ in range(3)]
    assert Search(dimensions=(FAST, RATE), method="random", max_trials=3, seed=42).points() == expected


def test_a_bayesian_search_begins_with_two_random_points_a_parameter_and_stays_near_the_best_afterwards() -> None:
    search = Search(dimensions=(FAST, RATE), method="bayesian", max_trials=40, exploration=0.0)
    assert search.warm_up == 4
    assert len(search.points()) == 4
    center = {"fast": 4, "rate": 0.5}
    near = [search.propose(number, center) for number in range(10, 200)]
    assert {point["fast"] for point in near} == {3, 4, 5}  # 20 % of the span of 4, at least 1
    rates = [float(point["rate"]) for point in near]
    assert math.isclose(sum(rates) / len(rates), 0.5, abs_tol=0.05)
    assert 0.1 < (sum((rate - 0.5) ** 2 for rate in rates) / len(rates)) ** 0.5 < 0.2


def test_a_proposal_depends_on_seed_number_and_best_only() -> None:
    search = Search(dimensions=(FAST, RATE, TINY, SIDE), method="bayesian", seed=7)
    center = {"fast": 4, "rate": 0.5, "tiny": 0.1, "side": "long"}
    assert search.propose(20, center) == search.propose(20, center)
    assert search.propose(20, center) != search.propose(21, center)


@given(st.integers(0, 2**31 - 1), st.integers(0, 100), st.floats(0, 1))
def test_every_proposal_lies_within_its_range(seed: int, number: int, exploration: float) -> None:
    search = Search(dimensions=(FAST, RATE, TINY, SIDE), method="bayesian", seed=seed, exploration=exploration)
    point = search.propose(number, {"fast": 6, "rate": 1.0, "tiny": 0.001, "side": "short"})
    assert 2 <= point["fast"] <= 6 and isinstance(point["fast"], int)
    assert 0 <= point["rate"] <= 1 and 0.001 <= point["tiny"] <= 10 and point["side"] in SIDE.values


def test_own_parameters_are_lists_stepped_ranges_or_plain_ranges() -> None:
    found = read_parameters({"a": [1, 2, 2, True], "b": {"low": 2, "high": 7, "step": 2},
                             "c": {"low": 0, "high": 1.0}, "d": {"low": 1, "high": 3},
                             "e": {"low": 0.1, "high": 0.3, "step": 0.1}})
    assert [each.values for each in found] == [(1, 2, True), (2, 4, 6), (), (), (0.1, 0.2, 0.3)]
    assert [each.kind for each in found] == ["choice", "choice", "float_range", "int_range", "choice"]


@pytest.mark.parametrize("wrong", [[], 5, {"low": 2, "high": 1}, {"low": 1}, {"low": 0, "high": 1, "step": 0},
                                   [float("nan")], {"low": 0, "high": 1e9, "step": 1}, [[1]]])
def test_a_senseless_parameter_is_refused_by_name(wrong: object) -> None:
    with pytest.raises(Invalid) as caught:
        read_parameters({"good": [1], "bad": wrong})
    assert [problem.field for problem in caught.value.problems] == ["parameters.bad"]


def test_walk_forward_splits_the_last_quarter_and_gives_the_remainder_to_the_first_windows() -> None:
    found = split(day("2023-01-01"), day("2023-01-31"), fraction=0.25, windows=3)  # 31 days, 7 of them: 3 + 2 + 2
    assert [(times.iso(each.start)[:10], times.iso(each.end)[:10]) for each in found.windows] == [
        ("2023-01-25", "2023-01-27"), ("2023-01-28", "2023-01-29"), ("2023-01-30", "2023-01-31")]
    assert found.train is not None
    assert times.iso(found.train.end) == "2023-01-24T23:59:59.999999Z"
    assert found.windows[-1].end == found.full.end
    assert list(found.ranges) == ["full", "train", "validation_1", "validation_2", "validation_3"]


def test_holdout_is_one_window_and_short_ranges_have_none() -> None:
    assert len(split(day("2023-01-01"), day("2023-01-31"), mode="holdout", windows=3).windows) == 1
    assert split(day("2023-01-01"), day("2023-01-07")).windows == ()
    assert len(split(day("2023-01-01"), day("2023-01-08")).windows) == 2  # floor(8 / 4) days for three windows
    assert split(day("2023-01-01"), day("2023-12-31"), mode="none").ranges.keys() == {"full"}


@given(st.integers(0, 4000), st.floats(0.06, 0.89), st.integers(1, 10), st.integers(0, 86_399))
def test_windows_cover_the_end_of_the_range_without_gap_or_overlap(days: int, fraction: float, count: int,
                                                                    second: int) -> None:
    start = day("2020-02-03") + second * times.SECOND
    found = split(start, start + days * times.DAY, fraction=fraction, windows=count)
    if found.windows:
        assert found.train is not None and found.train.start == start
        edges = [found.train, *found.windows]
        assert all(after.start == before.end + 1 for before, after in itertools.pairwise(edges))
        assert found.windows[-1].end == found.full.end
        assert all(each.start <= each.end for each in edges)
        kept = math.floor((times.instant(found.full.end).date() - times.instant(start).date()).days * fraction
                          + fraction)
        lengths = [(each.end - each.start + 1) / times.DAY for each in found.windows]
        assert len(lengths) == min(count, kept)


def test_the_objective_is_the_mean_over_the_windows() -> None:
    objective, metrics = score("sharpe", {
        "full": {"sharpe": 1.5, "trades": 9.0}, "train": {"sharpe": 2.0},
        "validation_1": {"sharpe": 1.0}, "validation_2": {"sharpe": 0.0}})
    assert objective == 0.5
    assert metrics == {
        "sharpe": 1.5, "trades": 9.0, "train_sharpe": 2.0, "validation_sharpe": 0.5, "validation_sharpe_stddev": 0.5,
        "validation_windows": 2.0, "full_sharpe": 1.5, "generalization_gap_sharpe": 1.5,
        "validation_full_gap_sharpe": -1.0}


def test_without_windows_the_objective_is_the_full_ranges_and_a_missing_one_is_none() -> None:
    assert score("sharpe", {"full": {"sharpe": 1.5}}) == (1.5, {"sharpe": 1.5})
    assert score("nope", {"full": {"sharpe": 1.5}})[0] is None
    assert score("sharpe", {"full": {"sharpe": 1.0}, "validation_1": {"sharpe": None}})[0] is None


def trial(number: int, objective: float | None, **parameters: float | str) -> Tried:
    return Tried(number=number, parameters=parameters, objective=objective, metrics={})


def test_the_best_is_the_largest_or_smallest_and_the_earlier_of_equals() -> None:
    tried = [trial(0, 1.0), trial(1, 3.0), trial(2, None), trial(3, 3.0)]
    assert best(tried).number == 1  # type: ignore[union-attr]
    assert best(tried, maximize=False).number == 0  # type: ignore[union-attr]
    assert best([trial(0, None)]) is None


def test_diagnosis_looks_at_the_best_third_and_calls_a_narrow_span_stable() -> None:
    tried = [trial(number, float(number), fast=10 + number, slow=100 * number, side="long") for number in range(9)]
    found = diagnostics(tried, "sharpe")
    assert found["objective"] == 8.0
    assert found["top_trials"] == 3  # numbers 8, 7, 6
    assert found["parameter_stability"]["fast"] == {
        "mean": 17, "min": 16, "max": 18, "span": 2, "relative_span": pytest.approx(2 / 17), "stable": True}
    assert found["parameter_stability"]["slow"]["stable"] is False
    assert found["parameter_stability"]["side"] == {"values": ["long"], "stable": True}
    assert diagnostics([], "sharpe") == {}
