"""Units of measure: their spellings and their sizes, so that 2 km is 2000 m and not 2 m."""

import re
from dataclasses import dataclass
from fractions import Fraction
from itertools import product

# Dimensions, and for each its units with their sizes. Names of more than two letters have a plural.
_UNITS = {
    "length": "1 m meter metre; 127/5000 in inch inches; 381/1250 ft foot feet; 1143/1250 yd yard;"
    " 201168/125 mi mile; 1/1000000 micron",
    "mass": "1/1000 g gram gramme; 1 kilo; 1000 t ton tonne; 45359237/100000000 lb lbs pound;"
    " 45359237/1600000000 oz ounce",
    "time": "1 s sec second; 60 min minute; 3600 h hr hrs hour; 86400 d day; 604800 wk wks week",
    "calendar": "1 month; 12 yr yrs year",
    "length^3": "1/1000 L l liter litre; 3785411784/1000000000000 gal gallon;"
    " 946352946/1000000000000 quart; 473176473/1000000000000 pint; 2365882365/10000000000000 cup",
    "money": "1 dollar usd $ ¤; 1/100 cent ¢",
    "angle": "1 ° degree deg",
    "energy": "1 J joule; 1602176634/10000000000000000000000000000 eV; 3600 Wh",
    "pressure": "1 Pa pascal; 101325 atm",
    "percent": "1/100 % percent",
}
# Units without a conversion to another one.
_OTHERS = (
    "euro eur €|gbp £|yen jpy ¥|rupee inr rs ₹|yuan rmb cny|rad radian|°C celsius|°F fahrenheit"
    "|K kelvin|N newton|cal calorie|W watt|V volt|A amp ampere|C coulomb|Ω ohm|Hz hertz|mol mole|M"
)
_PREFIXES: dict[str, int | Fraction] = {
    "k kilo": 1000, "c centi": Fraction(1, 100), "m milli": Fraction(1, 1000), "M mega": 10**6,
    "μ u micro": Fraction(1, 10**6), "n nano": Fraction(1, 10**9), "d deci": Fraction(1, 10),
    "G giga": 10**9,
}  # fmt: skip
_PREFIXED = (
    "m meter metre g gram gramme s second L l liter litre J joule eV Wh Pa pascal N newton W watt"
    " cal calorie V volt A amp ampere Ω ohm Hz hertz mol mole"
)
_ALIASES = {"mph": "mi/h", "kph": "km/h", "kmh": "km/h", "cc": "cm^3"}
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3, "squared": 2, "cubed": 3}


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit as a product of dimensions, and its size."""

    dimensions: tuple[tuple[str, int], ...]
    size: Fraction


def _base_units() -> dict[str, tuple[str, Fraction]]:
    units: dict[str, tuple[str, Fraction]] = {}
    for names in _OTHERS.split("|"):
        units |= dict.fromkeys(names.split(), (names.split()[0], Fraction(1)))
    for dimension, line in _UNITS.items():
        for unit in line.split(";"):
            size, *names_of_unit = unit.split()
            units |= dict.fromkeys(names_of_unit, (dimension, Fraction(size)))
    for (prefixes, factor), name in product(_PREFIXES.items(), _PREFIXED.split()):
        dimension, size_of_unit = units[name]
        for prefix in prefixes.split():
            if (len(prefix) > 1) == (len(name) > 3):  # kilometer and km, but not kmeter
                units.setdefault(prefix + name, (dimension, factor * size_of_unit))
    return units | {name + "s": unit for name, unit in units.items() if len(name) > 2}


BASE_UNITS = _base_units()
MAX_CHARACTERS = 200  # of a unit; the size of a product of thousands of units is an enormous number
_PART = re.compile(
    r"\s*(?P<over>/|\bper\b|\bp\b)?\s*[*·.]?\s*(?P<shape>(?:square|sq|cubic|cu)\b\.?\s*)?"
    r"(?P<name>°\s?[CF]\b|[^\W\d_]+|[°%$¤€£¥₹¢])\.?\s*"
    r"(?:\^?\s*\{?\s*(?P<power>-?\d)\s*\}?|(?P<after>squared|cubed)\b)?\s*"
)


def unit_of(text: str) -> Unit | None:
    """Return the unit that a text names (`cm^2`, `km/h`, `square meters`); None for other text."""
    text = _ALIASES.get(text, text)
    if len(text) > MAX_CHARACTERS:
        return None
    dimensions: dict[str, int] = {}
    size = Fraction(1)
    position = 0
    while position < len(text):
        part = _PART.match(text, position)
        base = part and _base_unit(part["name"].replace(" ", ""))
        if part is None or base is None or len(dimensions) > 4:
            return None
        power = int(part["power"] or 0) or _POWERS.get(part["after"] or "", 1)
        power *= _POWERS.get((part["shape"] or "").strip(" ."), 1) * (-1 if part["over"] else 1)
        name, _, exponent = base[0].partition("^")
        dimensions[name] = dimensions.get(name, 0) + power * int(exponent or 1)
        size *= base[1] ** power
        position = part.end()
    powers = tuple(sorted((name, power) for name, power in dimensions.items() if power))
    return Unit(powers, size) if powers else None


def _base_unit(name: str) -> tuple[str, Fraction] | None:
    return BASE_UNITS.get(name) or BASE_UNITS.get(name.casefold())
