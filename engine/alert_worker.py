"""The detection process: it holds the memory of all detectors that are switched on, and walks them over new candles.

`main([NICENESS])` reads requests from its standard input and writes answers to its standard
output, each a length (8 bytes, big-endian) and a pickle; both ends are the workbench's own. It ends when its input
ends, so it never outlives the server. It keeps nothing: what it answers is written down by the server, and given back
at the next start.

    {"do": "load", "slots": [slot …], "all"}   take these up, in place of those of the same market and detector, or all
    {"do": "drop", "slots": [(market, detector) …]}
    {"do": "walk", "candles": [(market, resolution, stored, columns) …]}

A slot is {"market", "detector", "params", "resolution", "bar", "quiet"} with what was kept of it ("gathered", "memory",
"life": bytes or None) and "history": columns that it is shown first, without giving alerts or moving the open one. The
answer to "load" and "walk" is {"slots": [kept …], "happened": [dict …]}, the answer to a failure {"error": text}.
"""

import os
import pickle
import struct
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, Any

import numpy as np

from engine import detectors
from engine.alert_life import LIFE, NONE, REASON, REASONS, STATE, STATE_NAMES
from engine.alert_walk import DETECTED, ENDED, GATHERED, LATE, POSITION, Columns, Happening, Slot, walk

__all__ = ["Detection", "main", "receive", "send"]

Key = tuple[str, str]


class Detection:
    """All slots at work, by market and detector."""

    def __init__(self) -> None:
        self._slots: dict[Key, Slot] = {}
        self._of_market: dict[str, list[Key]] = defaultdict(list)

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Do what is asked."""
        if request["do"] == "load":
            if request["all"]:
                self._slots.clear()
                self._of_market.clear()
            return {"slots": [self._load(each) for each in request["slots"]], "happened": []}
        if request["do"] == "drop":
            for key in request["slots"]:
                if self._slots.pop(tuple(key), None) is not None:
                    self._of_market[key[0]].remove(tuple(key))
            return {"slots": [], "happened": []}
        return self.walk(request["candles"])

    def _load(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        slot = Slot(market=wanted["market"], detector=detectors.get(wanted["detector"]), params=wanted["params"],
                    resolution=wanted["resolution"], bar=wanted["bar"], quiet=True,
                    gathered=_floats(wanted["gathered"], GATHERED))
        size = len(slot.memory)
        if (kept := _floats(wanted["memory"], size)).size:
            slot.memory = kept
        if (history := wanted.get("history")) is not None:
            walk([slot], history, [0], [len(history[0])])
        if (life := _floats(wanted["life"], LIFE)).size:
            slot.life = life
        if wanted.get("at") is not None:
            slot.gathered[POSITION] = wanted["at"]
        slot.quiet = wanted["quiet"]
        key = (slot.market, slot.detector.key)
        if key not in self._slots:
            self._of_market[slot.market].append(key)
        self._slots[key] = slot
        return kept_of(slot, True)

    def walk(self, candles: Iterable[tuple[str, int, bool, Columns]]) -> dict[str, Any]:
        """Move every slot of these markets that takes candles of that resolution (seconds). From `stored` candles each
        takes what it has not seen: those before its position are not late, they were read for another's sake."""
        pieces: list[Columns] = []
        groups: dict[str, list[tuple[Slot, int, int]]] = defaultdict(list)
        offset = 0
        for market, resolution, stored, columns in candles:
            length = len(columns[0])
            for key in self._of_market.get(market, ()):
                slot = self._slots[key]
                if slot.resolution == resolution:
                    seen = int(np.searchsorted(columns[0], slot.gathered[POSITION], "right")) if stored else 0
                    groups[slot.detector.key].append((slot, offset + seen, offset + length))
            pieces.append(columns)
            offset += length
        whole: Any = tuple(np.concatenate([piece[place] for piece in pieces]) for place in range(6)) if pieces else ()
        kept: list[dict[str, Any]] = []
        happened: list[Happening] = []
        for group in groups.values():
            slots = [slot for slot, _, _ in group]
            found, completed = walk(slots, whole, [first for _, first, _ in group], [last for _, _, last in group])
            happened += found
            kept += [kept_of(slot, bool(done)) for slot, done in zip(slots, completed, strict=True)]
        happened.sort(key=lambda each: each.at)  # stable: a slot's own steps keep their order
        return {"slots": kept, "happened": [self._tell(each) for each in happened]}

    def _tell(self, each: Happening) -> dict[str, Any]:
        life = each.life
        told: dict[str, Any] = {"market": each.market, "detector": each.detector, "life": life.tolist()}
        if each.kind == DETECTED:
            slot = self._slots[(each.market, each.detector)]
            direction = "BUY" if life[1] > 0 else "SELL"
            told |= {"state": "working", "reason": slot.detector.why(direction, slot.params, each.out)}
        elif each.kind == ENDED:
            told |= {"state": STATE_NAMES[int(life[STATE])], "reason": REASONS[int(life[REASON])]}
        else:
            told |= {"state": "onGoing", "reason": ""}
        return told


def kept_of(slot: Slot, memory: bool) -> dict[str, Any]:
    """What must be written down of a slot; its memory only when it changed."""
    alive = slot.life[STATE] != NONE and slot.life[STATE] < 3.0
    return {"market": slot.market, "detector": slot.detector.key, "at": slot.position,
            "late": int(slot.gathered[LATE]), "gathered": slot.gathered.tobytes(),
            "memory": slot.memory.tobytes() if memory else None, "life": slot.life.tobytes() if alive else None}


def _floats(kept: bytes | None, size: int) -> np.ndarray:
    """The floats that were kept; none when there are none, or when they are of another shape than now."""
    found = np.frombuffer(kept, np.float64).copy() if kept else np.zeros(0)
    return found if found.size == size else np.zeros(0)


def send(stream: IO[bytes], message: Any) -> None:
    """Write one message."""
    body = pickle.dumps(message, protocol=5)
    stream.write(struct.pack(">Q", len(body)))
    stream.write(body)
    stream.flush()


def receive(stream: IO[bytes]) -> Any:
    """Read one message; None at the end."""
    head = stream.read(8)
    if len(head) < 8:
        return None
    return pickle.loads(stream.read(struct.unpack(">Q", head)[0]))


def main(arguments: Sequence[str] = ()) -> None:
    """Answer until the input ends; the argument says how far to stand back behind the server (niceness)."""
    if arguments:
        os.nice(int(arguments[0]))
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints must not get in between
    detection = Detection()
    while (request := receive(sys.stdin.buffer)) is not None:
        try:
            reply = detection.answer(request)
        except Exception as error:  # the server decides; this process has nothing to lose
            reply = {"error": f"{type(error).__name__}: {error}"}
        try:
            send(answers, reply)
        except BrokenPipeError:
            return
