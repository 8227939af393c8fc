"""What peers do wrong fills no log, and is counted to the last one."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from mochi.margo.complaints import Complaint, Complaints

A, B = Complaint("a"), Complaint("b")


def test_the_first_is_told_at_once_and_the_others_are_counted_at_the_end_of_the_interval() -> None:
    complaints = Complaints()
    assert complaints.add(A, "one") == "a: one"
    assert [complaints.add(A, text) for text in ("two", "three")] == [None, None]
    assert complaints.add(B, "x") == "b: x"
    assert complaints.interval_over() == [(A, "a: 2 more, the last one: three")]
    assert complaints.has_noted
    assert complaints.interval_over() == []
    assert not complaints.has_noted
    assert complaints.add(A, "four") == "a: four"


@given(st.lists(st.sampled_from([A, B, None]), max_size=50))
def test_each_kind_has_one_line_in_an_interval_and_none_is_left_out_of_the_counts(
    steps: list[Complaint | None],
) -> None:
    complaints = Complaints()
    lines: Counter[tuple[Complaint, int]] = Counter()
    interval = counted = 0
    for step in [*steps, None, None]:
        if step is None:
            interval += 1
            for kind, line in complaints.interval_over():
                lines[kind, interval] += 1
                counted += int(line.split()[1])
        elif complaints.add(step, "text") is not None:
            lines[step, interval] += 1
            counted += 1
    assert max(lines.values(), default=0) <= 1
    assert counted == sum(step is not None for step in steps)
    assert not complaints.has_noted
