"""What a check of a partition's directory finds, as plain data."""

from dataclasses import dataclass, field
from enum import StrEnum

from mochi.mofka.chunks import Remembered


class Effect(StrEnum):
    """What a finding means for events."""

    PENDING = "pending"
    """None was lost. A crash left something to do, which whoever opens the directory next does."""
    REPAIRABLE = "repairable"
    """A file is damaged, and all that it had can be made again."""
    DOUBTFUL = "doubtful"
    """Events are served, but can no longer be verified, or not to everybody."""
    LOST = "lost"
    """Events are refused to whoever reads them; or producers and cursors are forgotten."""
    REFUSED = "refused"
    """The directory cannot be opened."""


@dataclass(slots=True)
class Finding:
    """Something that is not as after an orderly end.

    Attributes
    ----------
    effect : Effect
    file : str
        Name of the file.
    problem : str
        What is wrong.
    begin, end : int
        The bytes of the file that are concerned; the same if none can be named.
    first, count : int
        The events concerned: `count` consecutive ones from the id `first` on.
    repair : str
        What a repair does about it; empty if there is nothing.
    """

    effect: Effect
    file: str
    problem: str
    begin: int = 0
    end: int = 0
    first: int = 0
    count: int = 0
    repair: str = ""


@dataclass(slots=True)
class ChunkReport:
    """A chunk, and how many of its events are verified, served without that, and refused."""

    number: int
    first: int
    count: int
    metadata_bytes: int
    data_bytes: int
    time: int
    verified: int = 0
    unverified: int = 0
    lost: int = 0


@dataclass(slots=True)
class Report:
    """What a directory holds.

    Attributes
    ----------
    directory : str
    foreign : bool
        Whether there is no journal, so that the original wrote it, or nobody has yet.
    locked : str
        Who has it open, if anybody: then what came since the last checkpoint is not looked at.
    closed : bool
        Whether there was an orderly end, as far as can be told.
    epoch : int
        0 if there is none yet.
    first, count : int
        Id of the first event that is left, and the number of events from there on.
    verified, unverified, lost : int
        How many of them match their checksums, have none, and are refused.
    chunks : list of ChunkReport
    producers : list of Remembered
    cursors : dict of str to int
        The id of the next event by the name of its consumer.
    quarantine : dict of str to int
        Files with what was cut off earlier, and their sizes.
    others : list of str
        Names of files that are not of a partition.
    findings : list of Finding
    changes : list of str
        Names of the files that a repair would make, change or remove.
    """

    directory: str
    foreign: bool = True
    locked: str = ""
    closed: bool = True
    epoch: int = 0
    first: int = 0
    count: int = 0
    verified: int = 0
    unverified: int = 0
    lost: int = 0
    chunks: list[ChunkReport] = field(default_factory=list)
    producers: list[Remembered] = field(default_factory=list)
    cursors: dict[str, int] = field(default_factory=dict)
    quarantine: dict[str, int] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether all that was written is there, as it was written."""
        return all(finding.effect == Effect.PENDING for finding in self.findings)

    @property
    def repairable(self) -> bool:
        """Whether a repair would do anything."""
        return any(finding.repair for finding in self.findings)
