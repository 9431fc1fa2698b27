"""Finding the parameters in what a PyTorch file holds.

Files hold the ``state_dict`` alone, or beside epochs, optimisers and the like under one of many
names; its keys may begin with the names of wrapping modules (``module.``). Nothing of that is
guessed from one name: the entry and the beginning are those with which most keys are known.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Collection, Dict, Iterator, NamedTuple, Tuple

import numpy as np

from igcnet.convert.torch_report import shown
from igcnet.errors import CheckpointError
from igcnet.files import PathLike

DEEPEST = 3        # dictionaries in which a state_dict is looked for
MOST_PREFIXES = 8  # that are tried


class State(NamedTuple):
    """A state_dict and where it was.

    Parameters
    ----------
    entries : dict
        By full key. Arrays, and whatever else was among them.
    place : tuple
        Keys that lead to it from the outside; empty when it is the whole file.
    prefix : str
        What the keys begin with before the names that the network knows.
    """

    entries: Dict[str, Any]
    place: Tuple[Any, ...]
    prefix: str

    def parameters(self) -> Dict[str, np.ndarray]:
        """Arrays by their key without the prefix; those without it are left out."""
        start = len(self.prefix)
        return {key[start:]: value for key, value in self.entries.items()
                if isinstance(value, np.ndarray) and key.startswith(self.prefix)}


def find_state(value: Any, known: Collection[str], preferred: str, source: PathLike) -> State:
    """The state_dict in `value` that has most of the `known` keys.

    Parameters
    ----------
    preferred : str
        Of two that are equally good, the one under this name is taken (a file may also have the
        moving average of its parameters).

    Raises
    ------
    CheckpointError
        None of the keys is there, or two entries are equally good and neither is `preferred`.
    """
    found = []
    for place, entries in _dictionaries(value, ()):
        prefix, count = _best_prefix(entries, known)
        if count:
            found.append((count, place[-1:] == (preferred,), State(entries, place, prefix)))
    if not found:
        raise CheckpointError('%s: no parameter of this network is in it; it has %s'
                              % (source, _contents(value)))
    best = max(score[:2] for score in found)
    states = [state for *score, state in found if tuple(score) == best]
    if len(states) > 1:
        raise CheckpointError('%s: several entries fit the network equally well: %s'
                              % (source, ', '.join(place_text(state.place) for state in states)))
    return states[0]


def replace_state(value: Any, place: Tuple[Any, ...], state: Any) -> Any:
    """A copy of `value` with `state` at `place`; only the dictionaries on the way are copied."""
    if not place:
        return state
    copy = type(value)(value)
    copy[place[0]] = replace_state(value[place[0]], place[1:], state)
    return copy


def place_text(place: Tuple[Any, ...]) -> str:
    """The entry at `place`, for people."""
    return ' / '.join(shown(repr(key)) for key in place) or 'the whole file'


def _dictionaries(value: Any, place: Tuple[Any, ...]) -> Iterator[Tuple[Tuple[Any, ...], Any]]:
    if type(value) not in (dict, OrderedDict):
        return
    if all(isinstance(key, str) for key in value):
        yield place, value
    if len(place) < DEEPEST:
        for key, entry in value.items():
            yield from _dictionaries(entry, (*place, key))


def _best_prefix(entries: Dict[str, Any], known: Collection[str]) -> Tuple[str, int]:
    """The prefix with which most known keys are there, and how many."""
    known = set(known)
    keys = [key for key, entry in entries.items() if isinstance(entry, np.ndarray)]
    anchor = '.' + max(known, key=len)  # at the end of few others
    prefixes = [key[:-len(anchor)] + '.' for key in keys if key.endswith(anchor)]
    found = [(sum(key.startswith(prefix) and key[len(prefix):] in known for key in keys), prefix)
             for prefix in ['', 'module.', *prefixes[:MOST_PREFIXES]]]
    count, prefix = max(found, key=lambda pair: pair[0])
    return prefix, count


def _contents(value: Any) -> str:
    if not isinstance(value, dict):
        return 'a %s' % type(value).__name__
    return 'the entries %s%s' % (', '.join(shown(repr(key)) for key in list(value)[:5]),
                                 ', ...' if len(value) > 5 else '')
