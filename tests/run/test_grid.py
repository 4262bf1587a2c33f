"""The grid of a matrix: as data, as text of a given width and height, in a run, in status, and in pipes."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from benchbd.run import Outcome
from benchbd.run.display import grid_view
from benchbd.run.display.grid import Grids, Result, state_of
from benchbd.run.display.grid_view import GridView, print_grids, summary_table
from benchbd.run.display.names import ATTACK, Name, legend, short_names
from benchbd.run.display.rich import RichDisplay, _short_labels


def part(text: str) -> Any:
    return SimpleNamespace(name=text.partition("(")[0], text=text, json=text)


def cell(attack: str, defense: str, seed: int = 0, dataset: str = "digits", **recipe: Any) -> Any:
    parts = {"dataset": part(dataset), "model": part("net"), "attack": part(attack), "defense": part(defense)}
    return SimpleNamespace(
        id=f"{dataset}/{attack}/{defense}/{seed}/{recipe}",
        label=f"{dataset}/net/{attack}/{defense}/s{seed}",
        **parts,
        recipe={"epochs": 1, **recipe},
        numerics=SimpleNamespace(text=""),
        seed=seed,
    )


def cells(attacks: Iterable[str], defenses: Iterable[str], seeds: int = 1, **more: Any) -> list[Any]:
    return [cell(a, d, s, **more) for a in attacks for d in defenses for s in range(seeds)]


def done(ca: float, asr: float | None, seconds: float = 10.0, control: bool = False) -> Result:
    return Result("done", ca, asr, seconds, control)


def text_of(view: Any, width: int, height: int = 200, color: Any = None, **more: Any) -> str:
    console = Console(
        file=io.StringIO(), record=True, width=width, height=height, force_terminal=True, color_system=color, **more
    )
    console.print(view)
    return str(console.file.getvalue()) if color else console.export_text()  # type: ignore[attr-defined]


def test_terminal_and_leaderboard_have_one_rule_of_severity() -> None:
    from benchbd.core.severity import tone
    from benchbd.report.formats.terminal import COLOURS

    for asr in (None, *(n / 10_000 for n in range(10_001))):
        assert grid_view.severity(asr) == COLOURS[tone(asr)]


def test_every_status_has_a_state() -> None:
    from benchbd.run.outcome import STATUSES

    states = {status: state_of(status) for status in (*STATUSES, "missing", "running", "damaged")}
    assert {s for s, state in states.items() if state == "waiting"} == {"pending", "missing"}
    assert {s for s, state in states.items() if state not in ("failed", "waiting")} == {"done", "skipped", "running"}
    assert states["done"] == "done"
    assert states["unreadable"] == states["damaged"] == "failed"


def test_seeds_are_averaged_and_states_follow_events() -> None:
    plan = cells(["none", "bn-g"], ["none", "lfd"], seeds=3)
    grids = Grids(plan)
    (grid,) = grids.grids
    assert ([d.text for d in grid.defenses], [a.text for a in grid.attacks]) == (["none", "lfd"], ["none", "bn-g"])
    one = [c.id for c in plan if (c.attack.text, c.defense.text) == ("bn-g", "lfd")]
    entry = grid.entries[Name("lfd", "lfd"), Name("bn-g", "bn-g")]
    assert (entry.ca, entry.open) == (None, "waiting")
    grids.mark(one[0], "running")
    assert (entry.open, grids.running()) == ("running", [one[0]])
    grids.settle(one[0], done(0.90, 0.10))
    grids.settle(one[1], done(0.80, 0.40))
    assert entry.ca == pytest.approx(0.85)
    assert entry.asr == pytest.approx(0.25)
    grids.settle(one[2], Result("oom"))
    assert (entry.open, len(grid.ended), grid.size) == ("failed", 3, 12)
    grids.mark(one[0], "running")  # a rerun takes the old number out
    assert (entry.ca, entry.open, len(grid.ended)) == (0.80, "running", 2)
    grids.mark(one[0], "waiting")
    assert grids.running() == []
    grids.settle("another matrix's", done(1.0, 1.0))
    assert len(grid.ended) == 2


def test_each_data_set_and_recipe_has_a_grid_and_running_ones_come_first() -> None:
    plan = [*cells(["bn-g"], ["none"]), *cells(["bn-g"], ["none"], epochs=8), *cells(["bn-g"], ["none"], dataset="b")]
    grids = Grids(plan)
    assert [grid.title for grid in grids.grids] == ["digits / net / epochs=1", "digits / net / epochs=8", "b / net"]
    grids.settle(plan[0].id, done(0.9, 0.9))
    grids.mark(plan[2].id, "running")
    assert [g.title for g in grids.in_order()] == ["b / net", "digits / net / epochs=8", "digits / net / epochs=1"]


def test_the_summary_averages_seeds_then_attacks() -> None:
    plan = cells(["none", "a", "b"], ["none", "lfd", "oracle"], seeds=2)
    grids = Grids(plan)
    rates = {"a": [(0.8, 0.2), (0.6, 0.4)], "b": [(0.5, 0.9)], "none": [(0.99, None)]}
    for c in plan:
        values = rates[c.attack.text]
        if c.defense.text != "none" and c.seed < len(values):
            grids.settle(c.id, done(*values[c.seed], seconds=10.0 + 10 * c.seed, control=c.defense.text == "oracle"))
    lfd, oracle = grids.grids[0].summary()
    assert lfd.defense.text == "lfd"
    # By hand: CA (0.7 + 0.5) / 2, ASR (0.3 + 0.9) / 2; cells of 10, 10, 10 and 20 s.
    assert (lfd.ca, lfd.asr) == (pytest.approx(0.6), pytest.approx(0.6))
    assert lfd.worst is not None
    assert (lfd.worst_asr, lfd.worst.text, lfd.attacks, lfd.of) == (0.9, "b", 2, 2)
    assert lfd.seconds == pytest.approx(12.5)
    assert (lfd.control, oracle.control) == (False, True)


def test_short_names_are_distinct_and_the_legend_has_the_rest() -> None:
    items = [Name("lfd", "lfd"), Name("lfd", "lfd(beta=0.00012,alpha=1)"), Name("abl", "abl(unlearn_epochs=1)")]
    items += [Name("a-very-long-name-of-a-defense", "a-very-long-name-of-a-defense"), Name("ac", "ac(k=2)")]
    names = short_names(items, 12)
    assert list(names.values()) == ["lfd", "lfd#2", "abl", "a-very-lon..", "ac(k=2)"]
    assert legend(names) == [
        "lfd#2 is lfd(beta=0.00012,alpha=1)",
        "abl is abl(unlearn_epochs=1)",
        "a-very-lon.. is a-very-long-name-of-a-defense",
    ]
    many = [Name("x", f"x(parameter={i})") for i in range(1000)]
    assert len(set(short_names(many, 6).values())) == 1000


ATTACKS = ("none", "bn-g", "bn-w", "blend", "tj-sq", "tj-wm", "dynamic", "cl", "sig", "l2", "input-aware-long-name")


def full(width: int) -> str:
    """Eleven attacks and two defenses with all numbers, those of the first attack at 100."""
    plan = cells(ATTACKS, ["none", "lfd"])
    grids = Grids(plan)
    for n, c in enumerate(plan):
        grids.settle(c.id, done(1.0, 1.0) if n < 2 else done(0.5 + n / 100, 0.3 + n / 100))
    return text_of(GridView(grids), width)


@pytest.mark.parametrize(("width", "blocks"), [(50, 3), (80, 2), (120, 1), (200, 1)])
def test_attacks_wrap_into_blocks_and_no_number_is_cut(width: int, blocks: int) -> None:
    text = full(width)
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    rows = [line for line in lines if line.startswith("lfd")]
    assert len(rows) == blocks
    decimals = width == 200
    expected = [
        f"{100 * ca:.{decimals:d}f}/{100 * asr:.{decimals:d}f}"
        for ca, asr in ((1.0, 1.0) if n < 2 else (0.5 + n / 100, 0.3 + n / 100) for n in range(1, 22, 2))
    ]
    assert " ".join(rows).replace("lfd", "").split() == expected
    assert "…" not in text
    assert "input-aware-long-name" in text, "in the legend"
    assert "CA/ASR in %" in text


def test_states_are_signs_that_need_no_colour() -> None:
    plan = [*cells(["bn-g", "blend"], ["none", "lfd"], seeds=2), *cells(["none"], ["none"], seeds=2)]
    grids = Grids(plan)
    grids.settle(plan[0].id, done(0.9, 0.99))
    grids.mark(plan[1].id, "running")
    for c in plan[2:4]:
        grids.settle(c.id, Result("failed"))
    grids.settle(plan[4].id, done(0.8, 0.5))
    text = text_of(GridView(grids), 100, color="standard", no_color=True)
    assert "\x1b[3" not in text, "no colours"
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.startswith(("none", "lfd"))}
    assert rows["none"] == ["90.0/99.0", "▸", "80.0/50.0", "·", "·"]
    assert rows["lfd"] == ["✗", "·", "-"]
    assert "digits / net  4/10" in text
    assert "CA/ASR in %, mean of 2 seeds  ▸ running  · waiting  ✗ failed  - not run" in text


def test_ascii_terminals_get_ascii() -> None:
    plan = cells(["bn-g", "blend"], ["none", "lfd"])
    grids = Grids(plan)
    grids.mark(plan[0].id, "running")
    grids.settle(plan[1].id, Result("failed"))
    grids.settle(plan[2].id, done(0.5, 0.5))
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii")
    print_grids(grids, file, summary=True)
    file.flush()
    assert "> running" in raw.getvalue().decode("ascii")


def test_colours_grow_with_the_asr_and_the_loss_of_ca() -> None:
    assert [grid_view.severity(asr) for asr in (0.0, 0.096, 0.1, 0.4951, 0.5, 1.0, None)] == [
        *("green", "green", "yellow", "yellow", "red", "red", ""),
    ]
    assert [grid_view.loss_style(ca, 0.9) for ca in (0.95, 0.88, 0.86, 0.75)] == ["", "", "yellow", "red"]
    assert grid_view.loss_style(0.5, None) == ""
    plan = cells(["bn-g"], ["none", "lfd"])
    grids = Grids(plan)
    grids.settle(plan[0].id, done(0.9, 1.0))
    grids.settle(plan[1].id, done(0.7, 0.01))
    text = text_of(GridView(grids), 80, color="standard")
    assert "\x1b[31m100.0" in text
    assert "\x1b[31m70.0" in text
    assert "\x1b[32m1.0" in text


@pytest.mark.parametrize("height", range(1, 40))
def test_the_live_grids_fit_the_screen_and_show_what_runs(height: int) -> None:
    plan = [c for d in "abcd" for c in cells(ATTACKS, ["none", *(f"d{i}" for i in range(9))], dataset=d)]
    grids = Grids(plan)
    busy = next(c for c in plan if (c.dataset.text, c.attack.text, c.defense.text) == ("c", "l2", "d7"))
    grids.mark(busy.id, "running")
    text = text_of(GridView(grids, beside=4), 80, height)
    lines = text.splitlines()
    assert len(lines) <= max(1, height - 4)
    if height >= 20:
        assert lines[0].startswith("c / net")
        assert any(line.startswith("d7") and "▸" in line for line in lines)
        assert "more grids" in text or "d / net" in text


def test_a_new_size_is_drawn_at_once_and_an_unchanged_grid_never_again(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    original = grid_view.grid_lines
    monkeypatch.setattr(grid_view, "grid_lines", lambda *a, **k: drawn.append(1) or original(*a, **k))
    plan = cells(ATTACKS, ["none", "lfd"])
    grids = Grids(plan)
    view = GridView(grids, share=1e-9)
    wide = text_of(view, 120)
    assert text_of(view, 120) == wide
    assert len(drawn) == 1
    grids.mark(plan[0].id, "running")
    assert text_of(view, 120) == wide, "too early"
    narrow = text_of(view, 80)
    assert len(drawn) == 2
    assert max(map(len, narrow.splitlines())) <= 80
    eager = GridView(grids, share=1.0)
    text_of(eager, 120)
    grids.mark(plan[1].id, "running")
    assert text_of(eager, 120).count("▸") == 3, "two cells and the legend"


def test_an_update_costs_the_same_in_a_large_matrix() -> None:
    """Counted, not timed: an update touches one entry."""
    plan = cells((f"a{i}" for i in range(20)), [f"d{i}" for i in range(50)], seeds=2)
    grids = Grids(plan)
    versions = [grid.version for grid in grids.grids]
    before = {key: (dict(e.states), dict(e.results)) for key, e in grids.grids[0].entries.items()}
    grids.settle(plan[7].id, done(0.5, 0.5))
    after = {key: (dict(e.states), dict(e.results)) for key, e in grids.grids[0].entries.items()}
    assert sum(before[key] != after[key] for key in before) == 1
    assert [grid.version for grid in grids.grids] == [versions[0] + 1]


def test_the_summary_table_is_readable_at_80_columns() -> None:
    plan = cells(["none", "bn-g", "blend"], ["none", "abl(unlearn_epochs=1,unlearn_lr=0.1)", "oracle"])
    grids = Grids(plan)
    assert summary_table(grids.grids[0]) is None
    for c in plan:
        if c.defense.name != "abl" or c.attack.name != "blend":
            asr = None if c.attack.name == "none" else 0.25 if c.attack.name == "bn-g" else 0.75
            grids.settle(c.id, done(0.9, asr, 65.0, control=c.defense.name == "oracle"))
    text = text_of(summary_table(grids.grids[0]), 80)
    rows = [line.split() for line in text.splitlines()]
    assert rows[0] == ["Means", "over", "all", "attacks"]
    assert rows[1] == ["defense", "CA", "ASR", "worst", "ASR", "attack", "attacks", "time", "a", "cell"]
    assert rows[3:] == [
        ["none", "90.0", "50.0", "75.0", "blend", "2/2", "1m05s"],
        ["abl", "90.0", "25.0", "25.0", "bn-g", "1/2", "1m05s"],
        ["oracle", "(control)", "90.0", "50.0", "75.0", "blend", "2/2", "1m05s"],
    ]


LONG = ("bn-g(rate=0.0123)", "bn-g(rate=0.0124)", "an-attack-with-a-long-name")


def test_an_attack_has_one_name_in_the_grid_its_summary_and_the_slots() -> None:
    plan = cells(LONG, ["none", "a-defense-with-a-long-name"])
    grids = Grids(plan)
    grid = grids.grids[0]
    for n, c in enumerate(plan):
        grids.settle(c.id, done(0.9, n / 10))
    names = {*grid.short_attacks.values()}
    assert names == {"bn-g#1", "bn-g#2", "an-attack-.."}
    for width in (50, 80, 200):
        text = text_of(GridView(grids), width)
        assert names <= set(text.split())
        assert "a-defense-with.." in text.split()
    assert "an-attack-.." in text_of(summary_table(grid), 80)
    assert f"an-attack-../{grid.short_defenses[grid.defenses[1]]}/s0" in _short_labels(grids).values()


def test_wide_characters_are_two_columns() -> None:
    plan = cells(["\u4e2d\u6587\u653b\u51fb\u540d\u5b57\u957f", "bn"], ["none", "\u9632\u5fa1\u9632\u5fa1"])
    grids = Grids(plan)
    for c in plan:
        grids.settle(c.id, done(0.9, 0.1))
    rows = [line for line in text_of(GridView(grids), 60).splitlines() if "90.0/10.0" in line]
    assert len(rows) == 2
    ends = [[cell_len(line[: found.end()]) for found in re.finditer(r"90\.0/10\.0", line)] for line in rows]
    assert ends[0] == ends[1], "the numbers stand below each other"
    assert max(map(cell_len, grids.grids[0].short_attacks.values())) <= ATTACK


def test_a_window_that_is_too_narrow_is_named() -> None:
    grids = Grids(cells(ATTACKS, ["none", "a-defense-with-a-long-name"]))
    need = 16 + 12 + 2 + 1  # the names, the widest attack, its sign, the gap
    text = " ".join(text_of(GridView(grids), 20).split())
    assert f"the window is too narrow: the grid needs {need} columns" in text
    assert "too narrow" not in text_of(GridView(grids), need)


def play(plan: list[Any], kept: dict[str, Result]) -> tuple[RichDisplay, Any]:
    console = Console(file=io.StringIO(), force_terminal=True, width=80, height=30, color_system=None)
    display = RichDisplay(console)
    state = SimpleNamespace(
        total=4, left=3, counts={"done": 1}, eta=lambda: None, running={}, kept=kept, cells={c.id: c for c in plan}
    )
    display.begin(state, "4 cells to run")
    return display, state


def test_the_live_display_fills_the_grid() -> None:
    plan = cells(["bn-g", "blend"], ["none", "lfd(teachers=1,teacher_epochs=3)"])
    display, state = play(plan, {plan[0].id: done(0.91, 0.99)})
    try:
        assert display._view is not None
        (grid,) = display._view.grids.grids
        assert "91.0/99.0" in text_of(GridView(display._view.grids), 80), "kept from an earlier run"
        state.running[plan[1].id] = 1
        display.event(plan[1].id, plan[1].label, {"event": "started", "where": "cpu0"})
        display.tick()
        assert grid.running == {plan[1].id}
        screen = text_of(display._render(), 80)
        assert "bn-g/lfd/s0" in screen, "the slot's cell by its short name"
        assert screen.index("digits / net") < screen.index("cpu0") < screen.index("1 done")
        state.running.clear()  # the cell is tried again later
        display.tick()
        assert grid.running == set()
        assert "cpu0" not in text_of(display._render(), 80)
        state.kept[plan[2].id] = done(0.5, 0.125)  # another run has finished it
        display.tick()
        display.ended(plan[1].id, plan[1].label, "failed", "it broke", 3.0, None)
        display.ended(plan[3].id, plan[3].label, "done", "", 3.0, {"ca": 0.25, "asr": 0.75})
        shown = text_of(GridView(display._view.grids), 80)
        assert "50.0/12.5" in shown
        assert "25.0/75.0" in shown
        assert "✗" in shown
    finally:
        display.end(Outcome({}, {}, [], 1.0))
    printed = display._console.file.getvalue()  # type: ignore[attr-defined]
    assert "failed   digits/net/bn-g/lfd(teachers=1,teacher_epochs=3)/s0  it broke" in printed
    assert "done     blend/lfd/s0  CA 0.250  ASR 0.750" in printed


def test_slots_leave_room_for_the_grid() -> None:
    plan = cells(ATTACKS, [f"d{i}" for i in range(8)])
    display, state = play(plan, {})
    try:
        for n, c in enumerate(plan[:64]):
            state.running[c.id] = 1
            display.event(c.id, c.label, {"event": "started", "where": f"cpu{n:02}"})
        console = Console(file=io.StringIO(), width=80, height=30, force_terminal=True, color_system=None)
        display._console = console
        lines = text_of(display._render(), 80, 30).splitlines()
        assert len(lines) < 30
        assert "and 54 more slots" in "\n".join(lines)
        assert lines[0].startswith("digits / net")
    finally:
        display.end(Outcome({}, {}, [], 1.0))


def test_the_scheduler_reports_kept_results(
    go: Callable[..., Any], fakes: ModuleType, tmp_path: Path, told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = [fakes.cell(n=n) for n in range(3)]
    go(plan[:2])
    seen: list[Any] = []
    monkeypatch.setattr(told, "begin", lambda facts, text: seen.append((dict(facts.kept), list(facts.cells))), False)
    go(plan)
    ((kept, all_cells),) = seen
    assert all_cells == [c.id for c in plan]
    assert set(kept) == {c.id for c in plan[:2]}
    assert {result.status for result in kept.values()} == {"done"}
