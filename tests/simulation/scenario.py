"""What happens in a run: the cluster, its clients and its faults, all drawn from one seed."""

from __future__ import annotations

import random
from dataclasses import dataclass

from .model import LETTERS, VOCABULARY, ModelSettings
from .talk import Intent

FAULTY_SECONDS = 5.0
SERVICES = ("session-a", "session-b")
TARGET_LISTS = (("target-a",), ("target-a",), ("target-b",), ("target-a", "target-b"))
DRAFTS = ("draft-a", "draft-b")
LEDGER = "ledger"
WHOLE_LEDGER = ("ledger", "ledger mute")
KINDS = (
    ("crash",) * 2
    + ("crash at a step",) * 2
    + ("partition",) * 2
    + ("sever",) * 2
    + ("lose", "freeze", "slow", "ledger", "ledger mute", "ledger hangs")
)
"""Of faults, by how often they are drawn. A process that is lost tells nobody; one that crashes does. A mute
ledger writes and does not answer."""


@dataclass(frozen=True, slots=True)
class TurnPlan:
    """One turn of a client."""

    intent: Intent
    draft: str
    loop: str
    max_window: int | None
    read_seconds: float
    """How long the client takes over each token."""
    twice: bool
    """Whether it is asked for twice at once, as by a client that lost patience."""
    leave_after: int | None
    """Tokens after which the client goes away and asks again."""
    then: str
    """What becomes of the session afterwards: "", or it is to "rewind", or to "fork", at a position, or the
    turn is to be taken "back"."""
    share: float
    """The position, as a share of the session's length."""


@dataclass(frozen=True, slots=True)
class ClientPlan:
    """A client with a session of its own, and how often another one takes its turns over."""

    turns: tuple[TurnPlan, ...]
    rivals: int
    resume_ms: int
    stickiness: float
    """Chance that a call goes where the last one went."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong, when, where and for how long. `steps` delays a crash by steps of its process."""

    at: float
    kind: str
    place: str
    peer: str
    seconds: float
    steps: int = 0


@dataclass(frozen=True, slots=True)
class Scenario:
    """A run."""

    seed: int
    services: tuple[str, ...]
    targets_of: dict[str, tuple[str, ...]]
    """The targets that each service knows."""
    drafts: tuple[str, ...]
    lease_seconds: float | None
    target: ModelSettings
    draft: ModelSettings
    queue: int
    longest_delay: float
    step_seconds: float
    ledger_seconds: float
    window: int
    lead: int
    clients: tuple[ClientPlan, ...]
    faults: tuple[Fault, ...]

    @property
    def targets(self) -> tuple[str, ...]:
        """Every target that some service knows."""
        return tuple(sorted({target for known in self.targets_of.values() for target in known}))


def draw_scenario(seed: int) -> Scenario:
    """The scenario of a seed."""
    drawn = random.Random(seed)
    services = SERVICES[: drawn.choice((1, 2, 2))]
    targets_of = {name: drawn.choice(TARGET_LISTS) for name in services}
    slots = drawn.choice((1, 2, 2, 4))
    clients = tuple(_draw_client(drawn) for _ in range(drawn.choice((1, 1, 2, 3))))
    drafts = DRAFTS[: drawn.choice((0, 1, 1, 1, 1, 2))]
    window = drawn.choice((1, 3, 7, 7))
    return Scenario(
        seed=seed,
        services=services,
        targets_of=targets_of,
        drafts=drafts,
        lease_seconds=drawn.choice((None, 2.0, 10.0)),
        target=ModelSettings(slots, drawn.choice((0, 60, 10_000)), drawn.random() < 0.5),
        draft=ModelSettings(
            drawn.choice((1, 2, 4)),
            drawn.choice((0, 60, 10_000)),
            drawn.random() < 0.5,
            drawn.choice((0.0, 0.3, 0.7, 0.9, 1.0)),
        ),
        queue=drawn.choice((0, 2, 8)),
        longest_delay=drawn.choice((0.002, 0.02, 0.2, 0.5)),
        step_seconds=drawn.choice((0.001, 0.01, 0.05)),
        ledger_seconds=drawn.choice((0.0005, 0.005, 0.05)),
        window=window,
        lead=drawn.choice((window, window + 1, 12)),
        clients=clients,
        faults=_draw_faults(drawn, targets_of, drafts, len(clients)),
    )


def _draw_client(drawn: random.Random) -> ClientPlan:
    chatty = drawn.choice((0.0, 0.5, 1.0))
    return ClientPlan(
        turns=tuple(_draw_turn(drawn, chatty) for _ in range(drawn.choice((1, 2, 2, 3)))),
        rivals=drawn.choice((0, 0, 1, 3)),
        resume_ms=drawn.choice((0, 2_000, 60_000, 60_000)),
        stickiness=drawn.choice((0.0, 0.7, 1.0)),
    )


def _draw_turn(drawn: random.Random, chatty: float) -> TurnPlan:
    stops = ("".join(drawn.choices(LETTERS, k=drawn.choice((1, 2)))) for _ in range(2))
    # A context that repeats itself is what n-grams live on.
    motif = [drawn.randrange(1, VOCABULARY) for _ in range(drawn.randrange(1, 8))]
    return TurnPlan(
        intent=Intent(
            prompt=tuple(motif * drawn.choice((1, 1, 2, 5)))[:36],
            seed=drawn.randrange(2**53),
            stop=tuple(stops) if drawn.random() < 0.3 else (),
            most=drawn.choice((1, 6, 16, 32)),
            chats=drawn.random() < chatty,
        ),
        draft=drawn.choice(("auto", "auto", "model", "model", "ngram", "off")),
        loop=drawn.choice(("run_ahead", "adaptive", "synchronous")),
        max_window=drawn.choice((None, None, 2)),
        read_seconds=drawn.choice((0.0, 0.0, 0.0, 0.3)),
        twice=drawn.random() < 0.1,
        leave_after=drawn.choice((None, None, None, 0, 2, 5)),
        then=drawn.choice(("", "", "", "rewind", "fork", "back")),
        share=drawn.choice((0.0, 1.0, drawn.random())),
    )


def _draw_faults(
    drawn: random.Random,
    targets_of: dict[str, tuple[str, ...]],
    drafts: tuple[str, ...],
    clients: int,
) -> tuple[Fault, ...]:
    services = tuple(targets_of)
    targets = tuple(dict.fromkeys(target for known in targets_of.values() for target in known))
    machines = (*services, *services, *targets, *drafts)
    links = [(f"client-{number}", service) for number in range(clients) for service in services]
    links += [(name, model) for name, known in targets_of.items() for model in (*known, *drafts)]
    faults = []
    for _ in range(drawn.choice((0, 2, 4, 8))):
        kind = drawn.choice(KINDS)
        place, peer = drawn.choice(links) if kind in ("partition", "sever") else ("", "")
        faults.append(
            Fault(
                at=FAULTY_SECONDS * drawn.random() ** 2,
                kind=kind,
                place=place or (LEDGER if kind in WHOLE_LEDGER else drawn.choice(machines)),
                peer=peer,
                seconds=drawn.choice((0.05, 0.5, 2.0, 6.0)),
                steps=drawn.randrange(1, 60) if kind == "crash at a step" else 0,
            )
        )
    return tuple(sorted(faults, key=lambda fault: fault.at))
