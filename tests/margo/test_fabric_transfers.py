"""Transfers between registered memory, against a model of a provider that takes nothing back."""

from collections.abc import Callable

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mochi.margo.fabric.transfers import TRANSITIONS, Ended, Event, State, Transfer, Transfers

LOST = OSError("lost")
OWNERS = [object() for _ in range(3)]


class TransfersMachine(RuleBasedStateMachine):
    """The oracle: what the provider has, and what each asker was told."""

    def __init__(self) -> None:
        super().__init__()
        self.transfers = Transfers()
        self.now = 0.0
        self.at_provider: set[int] = set()
        self.alive: dict[int, Transfer] = {}
        self.told: dict[int, list[BaseException | None]] = {}

    def asker(self, tag: int) -> Callable[[BaseException | None], None]:
        return self.told.setdefault(tag, []).append

    def tell(self, ended: list[Ended]) -> None:
        for told, error in ended:
            told(error)

    @rule(peer=st.integers(0, 2), size=st.integers(0, 100), seconds=st.integers(1, 5))
    def ask(self, peer: int, size: int, seconds: int) -> None:
        tag = len(self.told)
        transfer = Transfer(OWNERS[peer], peer, size, self.now + seconds, self.asker(tag), None, object())
        number = self.transfers.add(transfer)
        self.alive[number] = transfer

    @rule(data=st.data(), error=st.sampled_from([None, LOST]))
    def post(self, data: st.DataObject, error: BaseException | None) -> None:
        waiting = self.transfers.waiting()
        if not waiting:
            return
        number, _ = data.draw(st.sampled_from(waiting))
        if error is None:
            self.transfers.taken(number)
            self.at_provider.add(number)
        else:
            self.tell(self.transfers.refused(number, error))
            del self.alive[number]

    @rule(data=st.data(), error=st.sampled_from([None, LOST]))
    def complete(self, data: st.DataObject, error: BaseException | None) -> None:
        if self.at_provider:
            number = data.draw(st.sampled_from(sorted(self.at_provider)))
            self.at_provider.discard(number)
            self.tell(self.transfers.completed(number, error))
            del self.alive[number]

    def drop_what_the_provider_never_had(self, is_given_up: Callable[[Transfer], bool]) -> None:
        for number, transfer in list(self.alive.items()):
            if number not in self.at_provider and is_given_up(transfer):
                del self.alive[number]

    @rule(peer=st.integers(0, 2))
    def give_up(self, peer: int) -> None:
        self.drop_what_the_provider_never_had(lambda transfer: transfer.peer == peer)
        self.tell(self.transfers.give_up(OWNERS[peer], LOST))

    @rule(seconds=st.integers(0, 3))
    def pass_time(self, seconds: int) -> None:
        self.now += seconds
        self.drop_what_the_provider_never_had(lambda transfer: transfer.deadline <= self.now)
        self.tell(self.transfers.expire(self.now, LOST))
        assert self.transfers.next_deadline() > self.now

    @rule()
    def end(self) -> None:
        self.tell(self.transfers.end(LOST))
        self.alive.clear()
        self.at_provider.clear()

    @invariant()
    def everybody_is_told_once(self) -> None:
        assert all(len(told) <= 1 for told in self.told.values())
        untold = sum(not told for told in self.told.values())
        assert untold == sum(transfer.told is not None for transfer in self.alive.values())

    @invariant()
    def memory_is_kept_as_long_as_the_provider_may_touch_it(self) -> None:
        assert len(self.transfers) == len(self.alive)
        hung = [self.alive[number] for number in self.at_provider if self.alive[number].told is None]
        assert self.transfers.quarantined == sum(transfer.size for transfer in hung)


TestTransfers = TransfersMachine.TestCase


def test_each_event_that_a_state_does_not_have_raises_and_names_both() -> None:
    for state in State:
        for event in set(Event) - TRANSITIONS[state].keys():
            transfers = Transfers()
            transfer = Transfer(None, 0, 1, 1.0, None, None, None, state)
            number = transfers.add(transfer)
            calls: dict[Event, Callable[[], object]] = {
                Event.TAKEN: lambda n=number, t=transfers: t.taken(n),
                Event.REFUSED: lambda n=number, t=transfers: t.refused(n, LOST),
                Event.COMPLETED: lambda n=number, t=transfers: t.completed(n, None),
            }
            with pytest.raises(RuntimeError, match=f"{state.name}: {event.name}"):
                calls[event]()
