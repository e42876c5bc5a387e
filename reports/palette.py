"""Colours and symbols that are distinguishable in light and dark mode, in print, and with colour blindness."""

from collections.abc import Sequence

METHOD_COLORS = ("#1f77c4", "#d5602a", "#129b74", "#c568a5", "#d69a1c", "#4aa8d8", "#8a6fd1", "#8d8d3c")
SYMBOLS = {
    "circle": "M5 0A5 5 0 1 1 -5 0A5 5 0 1 1 5 0Z",
    "square": "M-4.5 -4.5H4.5V4.5H-4.5Z",
    "triangle-up": "M0 -5L5 4H-5Z",
    "diamond": "M0 -6L5 0L0 6L-5 0Z",
    "cross": "M-2 -5H2V-2H5V2H2V5H-2V2H-5V-2H-2Z",
    "triangle-down": "M0 5L5 -4H-5Z",
    "triangle-right": "M5 0L-4 5V-5Z",
    "triangle-left": "M-5 0L4 5V-5Z",
}
"""SVG paths of Vega's symbols, for legends."""
_SHIFTS = (0, 4, 7)
"""Shift of the symbols in each round of colours: series of one symbol then differ in colour to colour-blind readers, too."""
REFERENCE = "#8b919a"
_RAMP = ("#a134b8", "#c9407f", "#de6a5c", "#ec8d45", "#e9b13a")


def methods(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Returns colour and symbol of every method, in order; after eight methods colours repeat with other symbols."""
    num, shapes = len(METHOD_COLORS), list(SYMBOLS)
    return {
        name: (METHOD_COLORS[place % num], shapes[(place + _SHIFTS[place // num % len(_SHIFTS)]) % len(shapes)])
        for place, name in enumerate(dict.fromkeys(names))
    }


def ramp(num: int) -> list[str]:
    """Returns `num` colours of increasing lightness, for ordered values."""
    if num == 1:
        return [_RAMP[0]]
    return [_at(place * (len(_RAMP) - 1) / (num - 1)) for place in range(num)]


def _at(stop: float) -> str:
    first = min(int(stop), len(_RAMP) - 2)
    return _mix(_RAMP[first], _RAMP[first + 1], stop - first)


def _mix(first: str, second: str, share: float) -> str:
    channels = zip(bytes.fromhex(first[1:]), bytes.fromhex(second[1:]), strict=True)
    return "#" + bytes(round(one + (other - one) * share) for one, other in channels).hex()
