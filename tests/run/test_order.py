"""Order, sharing, waves and shards."""

from __future__ import annotations

import itertools
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchbd import testing
from benchbd.plan.shared_work import SharedWork, shared_work_of
from benchbd.plugins.contract import BUDGET
from benchbd.run.costs import Costs
from benchbd.run.order import Sharing, arrange, in_shard, waves
from benchbd.run.settings import Shard

IDS = st.lists(st.text("0123456789abcdef", min_size=16, max_size=16), unique=True, max_size=60)


@given(IDS, st.integers(1, 9))
def test_shards_are_a_partition(ids: list[str], count: int) -> None:
    parts = [[i for i in ids if in_shard(i, Shard(index, count))] for index in range(1, count + 1)]
    assert sorted(itertools.chain(*parts)) == sorted(ids)


def test_shards_do_not_depend_on_the_order_and_are_about_even() -> None:
    ids = [f"{n:016x}" for n in range(4000)]
    sizes = [sum(in_shard(i, Shard(index, 4)) for i in ids) for index in range(1, 5)]
    assert sum(sizes) == 4000
    assert max(sizes) - min(sizes) < 200
    assert all(in_shard(i, None) for i in ids)


@given(st.lists(st.one_of(st.none(), st.floats(0, 1e6)), max_size=30))
def test_unknown_first_in_plan_order_then_longest_first(seconds: list[float | None]) -> None:
    cells = [SimpleNamespace(n=n, s=s) for n, s in enumerate(seconds)]
    order = arrange(cells, lambda cell: cell.s)
    assert sorted(c.n for c in order) == list(range(len(cells)))
    unknown = [c.n for c in order if c.s is None]
    assert unknown == sorted(unknown)
    assert [c.n for c in order[: len(unknown)]] == unknown
    known = [c.s for c in order[len(unknown) :]]
    assert known == sorted(known, reverse=True)


def record(**changes: Any) -> dict[str, Any]:
    base = {
        "dataset": "d",
        "attack": "a",
        "defense": "f",
        "model": "m",
        "params": {},
        "recipe": {"epochs": 1},
        "status": "done",
    }
    return {**base, "time": {"total": 10.0}, **changes}


def test_costs_take_the_nearest_kind() -> None:
    costs = Costs(
        [
            record(),
            record(time={"total": 20.0}),
            record(attack="b", time={"total": 60.0}),
            record(defense="g", time={"total": 210.0}),
        ]
    )
    assert costs.expected(Costs.kinds(record(status="-"))) == 15.0
    assert costs.expected(Costs.kinds(record(attack="new"))) == 30.0
    assert costs.expected(Costs.kinds(record(defense="new"))) == 75.0
    assert costs.expected(Costs.kinds(record(dataset="new"))) is None
    assert costs.expected(Costs.kinds(record(recipe={"epochs": 2}))) is None


def test_costs_ignore_what_has_no_time() -> None:
    odd = [
        record(status="failed"),
        record(time=None),
        record(time={"total": None}),
        record(time={"total": -1}),
        {},
        {"params": 3, "status": "x"},
    ]
    costs = Costs(r for r in odd if isinstance(r.get("params", {}), dict))
    assert costs.expected(Costs.kinds(record())) is None


def cell(name: str, *heavy: str, light: str = "") -> Any:
    return SimpleNamespace(
        name=name, stages=SharedWork(frozenset((k,) for k in heavy), frozenset((k,) for k in light.split()))
    )


def test_sharers_of_a_running_training_wait_while_others_can_run() -> None:
    first, second, other, last = cell("first", "x"), cell("second", "x"), cell("other", "y"), cell("last", "x", "y")
    sharing = Sharing(lambda c: c.stages)
    assert sharing.pick([first, second, other, last]) is first
    sharing.started(first)
    assert sharing.pick([second, other, last]) is other
    sharing.started(other)
    assert sharing.pick([second, last]) is second, "with nothing else to run a sharer begins: it has work of its own"
    sharing.ended(first, True)
    assert sharing.pick([second, last]) is second
    sharing.started(second)
    assert sharing.pick([last]) is last
    sharing.ended(other, True)
    assert sharing.pick([last]) is last
    assert sharing.pick([]) is None


def test_a_failed_cell_leaves_its_training_to_the_next() -> None:
    first, second, other = cell("first", "x"), cell("second", "x"), cell("other", "y")
    sharing = Sharing(lambda c: c.stages)
    sharing.started(first)
    sharing.ended(first, False)
    sharing.started(second)
    assert sharing.pick([first, other]) is other


def test_an_uncomputed_poisoned_set_matters_less_than_a_training() -> None:
    sharing = Sharing(lambda c: c.stages)
    sharing.started(cell("running", "x", light="row1"))
    heavy, light, free = cell("heavy", "x"), cell("light", "z", light="row1"), cell("free", "y", light="row2")
    assert sharing.pick([heavy, light, free]) is free
    assert sharing.pick([heavy, light]) is light


@given(st.lists(st.sets(st.sampled_from("abcdef"), max_size=3), max_size=25))
def test_waves_never_compute_a_training_twice(keys: list[set[str]]) -> None:
    cells = [cell(str(n), *k) for n, k in enumerate(keys)]
    made = waves(cells, lambda c: c.stages)
    assert sorted((c.name for wave in made for c in wave), key=int) == [c.name for c in cells]
    first: dict[Any, int] = {}
    for level, wave in enumerate(made):
        assert wave
        for c in wave:
            for key in c.stages.heavy:
                assert key not in first or first[key] < level
        for c in wave:
            for key in c.stages.heavy:
                first.setdefault(key, level)


def test_stages_of_real_cells(fakes: ModuleType) -> None:
    cells = [
        fakes.cell(n=1, shared="teacher"),
        fakes.cell(n=2, shared="teacher"),
        fakes.cell(n=3),
        fakes.cell(n=4, shared="teacher", attack="b"),
    ]
    stages = shared_work_of(cells)
    one, two, three, four = (stages[c.id] for c in cells)
    assert one.heavy == two.heavy
    assert len(one.heavy) == 1
    assert not three.heavy
    assert not four.heavy, "another row shares nothing"
    assert one.light == three.light
    assert len(one.light) == 1


def shared(*specs: tuple[str, int], defense: str = "none") -> set[str]:
    """Kinds of the heavy stages that cells with these attacks and seeds all share."""
    cells = [testing.cell(attack=attack, seed=seed, defense=defense) for attack, seed in specs]
    stages = shared_work_of(cells)
    return {
        str(key[1] if key[0] == "loop" else key[0])
        for key in frozenset.intersection(*(s.heavy for s in stages.values()))
    }


@pytest.mark.parametrize(
    ("first", "second", "kinds"),
    [
        (("tj-sq", 0), ("tj-sq", 1), set()),  # each seed has its own trigger
        (("tj-sq(trigger_seed=0)", 0), ("tj-sq(trigger_seed=0)", 1), {"trigger", "training"}),
        (("tj-sq", 1), ("tj-sq(trigger_seed=1)", 2), {"trigger", "training"}),
        (("tj-sq", 0), ("tj-sq(rate=0.05, pool='non-target')", 0), {"trigger", "training"}),  # one trigger, any budget
        (("tj-sq", 0), ("tj-wm", 0), {"training"}),
        (("tj-sq", 0), ("tj-sq(iterations=3)", 0), {"training"}),
        (("tj-sq", 0), ("tj-sq(trigger_seed=1)", 0), set()),
        (("tj-sq", 0), ("none", 0), set()),  # no cell has the surrogate's seed
        (
            ("cl(trigger_seed=0)", 0),
            ("cl(trigger_seed=0)", 1),
            {"training"},
        ),  # noise is made for the images of each seed
        (("cl", 0), ("cl", 1), set()),
        (("cl", 0), ("cl(eps=16)", 0), {"training"}),
        (("cl", 0), ("cl(robust_eps=4)", 0), set()),
        (("cl", 0), ("cl(surrogate='standard')", 0), set()),
        (("cl(surrogate='standard')", 0), ("tj-sq", 0), {"training"}),
        (("dynamic", 0), ("dynamic", 1), set()),
        (("dynamic", 0), ("dynamic(rate=0.01)", 0), {"trigger", "dynamic-mask"}),
        (("dynamic", 0), ("dynamic(joint_epochs=7)", 0), {"dynamic-mask"}),
        (("dynamic", 0), ("dynamic(trigger_seed=1)", 0), set()),
        (("dynamic", 0), ("tj-sq", 0), set()),
        (("tj-sq(mode='random')", 0), ("tj-sq(mode='random')", 1), set()),
    ],
)
def test_cells_share_what_their_attacks_make_first(
    first: tuple[str, int], second: tuple[str, int], kinds: set[str], fresh_registry: None
) -> None:
    assert shared(first, second) == kinds


def test_defenses_of_a_row_share_its_trigger_and_what_came_before(fresh_registry: None) -> None:
    row = [testing.cell(attack="cl", defense=d) for d in ("none", "ac")]
    kinds = [{str(key[0]) for key in stage.heavy} for stage in shared_work_of(row).values()]
    assert kinds == [{"trigger", "training"}] * 2


def test_a_budget_is_what_triggers_are_stored_without() -> None:
    from benchbd.pipeline import poison

    assert BUDGET is poison.BUDGET
