"""The names of the channels, and every other name that people give them.

A *channel* is one MR sequence of a case. An *alias* is another name of a channel, in small letters and digits only.
:data:`ANY` is what a bundle names that wants one scan, whatever its sequence.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from neurobundle.errors import SettingError, closest

#: The channels that a study can become. T1c is T1 after a contrast agent; FLAIR is the T2-weighted one.
CHANNELS = ("T1", "T1c", "T2", "FLAIR")

#: One scan of whatever sequence; it stands alone. Of a study it is the best: :mod:`neurobundle.load.study.any_scan`.
ANY = "any"

#: Channel -> what else it is called. Sources: BIDS 1.9 suffixes (T1w); BraTS 2012-2021 (t1ce), 2023-2025 (t1n, t1c,
#: t2w, t2f); FeTS and UPENN-GBM (T1GD); UCSF-PDGM (T1c).
ALIASES = {
    "T1": ("t1", "t1w", "t1n", "t1pre", "t1wpre", "pret1", "t1weighted", "t1native"),
    "T1c": (
        *("t1c", "t1ce", "t1gd", "t1gad", "t1post", "t1km", "t1wc", "t1wce", "t1wgd", "t1wpost", "t1cw", "t1contrast"),
        *("t1gado", "t1gadolinium", "t1postcontrast", "t1contrastenhanced", "postt1", "cet1", "cet1w", "gdt1"),
    ),
    "T2": ("t2", "t2w", "t2weighted"),
    "FLAIR": ("flair", "t2f", "t2flair", "flairt2", "t2wflair", "flairw"),
}

#: Alias -> channel.
CHANNEL_OF = {alias: channel for channel, aliases in ALIASES.items() for alias in aliases}


def channel_named(name: str) -> str:
    """The channel that a name means; capitals, spaces and signs do not count.

    Args:
        name: a channel, or one of its aliases.

    Raises:
        SettingError: if no channel is called so.

    >>> channel_named("T1w"), channel_named("T1-Gd"), channel_named("t2 FLAIR")
    ('T1', 'T1c', 'FLAIR')
    """
    plain = re.sub(r"[^a-z0-9]", "", str(name).lower())
    if plain not in CHANNEL_OF:
        known = ", ".join(CHANNELS)
        raise SettingError(f"there is no channel {name!r}; the channels are {known}{closest(str(name), CHANNELS)}")
    return CHANNEL_OF[plain]


def channels_named(names: Iterable[str]) -> tuple[str, ...]:
    """The channels that several names mean, in their order.

    Args:
        names: channels or aliases, as a bundle's metadata lists them; or :data:`ANY` alone.

    Raises:
        SettingError: if a name is unknown, two mean one channel, or there are none.
    """
    given = [str(name) for name in names]
    if [name.lower() for name in given] == [ANY]:
        return (ANY,)
    channels = tuple(channel_named(name) for name in given)
    if not channels:
        raise SettingError("no channels are named", f"Name some of {', '.join(CHANNELS)}.")
    twice = next((channel for channel in channels if channels.count(channel) > 1), None)
    if twice:
        raise SettingError(f"the channel {twice} is named twice", "Name each channel once.")
    return channels
