"""Units of measure: their spellings and their sizes, so that 2 km is 2000 m and not 2 m."""

import re
from dataclasses import dataclass
from fractions import Fraction

POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3, "squared": 2, "cubed": 3}
# A unit of a dimension, its size in the dimension's first unit, and its spellings.
_TABLE = """
length 1 m meter meters metre metres
length 1/100 cm centimeter centimeters centimetre centimetres
length 1/1000 mm millimeter millimeters millimetre millimetres
length 1/1000000 μm um micrometer micrometers micron microns
length 1/1000000000 nm nanometer nanometers
length 1/10 dm decimeter decimeters
length 1000 km kilometer kilometers kilometre kilometres
length 127/5000 inch inches in
length 381/1250 ft foot feet
length 1143/1250 yd yard yards
length 201168/125 mi mile miles
mass 1 kg kilogram kilograms kilo kilos
mass 1/1000 g gram grams gramme grammes
mass 1/1000000 mg milligram milligrams
mass 1000 t ton tons tonne tonnes
mass 45359237/100000000 lb lbs pound pounds
mass 45359237/1600000000 oz ounce ounces
time 1 s sec secs second seconds
time 60 min mins minute minutes
time 3600 h hr hrs hour hours
time 86400 d day days
time 604800 week weeks wk wks
time 1/1000 ms millisecond milliseconds
month 1 month months
year 1 yr yrs year years
volume 1 L l liter liters litre litres
volume 1/1000 mL ml milliliter milliliters
volume 1000000 gallon gallons gal
volume 2000000 cup cups
volume 3000000 quart quarts pint pints
money 1 dollar dollars usd $ ¤
money 1/100 cent cents ¢
euro 1 euro euros eur €
pounds 1 gbp £
yen 1 yen jpy ¥
rupee 1 rupee rupees inr rs ₹
yuan 1 yuan rmb cny
angle 1 ° degree degrees deg
radian 1 rad radian radians
celsius 1 °C celsius
fahrenheit 1 °F fahrenheit
kelvin 1 K kelvin kelvins
force 1 N newton newtons
force 1000 kN
energy 1 J joule joules
energy 1000 kJ kilojoule kilojoules
energy 1602176634/10000000000000000000000000000 eV
calorie 1 cal calorie calories
power 1 W watt watts
power 1000 kW kilowatt kilowatts
voltage 1 V volt volts
current 1 A amp amps ampere amperes
charge 1 C coulomb coulombs
resistance 1 Ω ohm ohms
pressure 1 Pa pascal pascals
pressure 1000 kPa
pressure 101325 atm
frequency 1 Hz hertz
frequency 1000 kHz
frequency 1000000 MHz
amount 1 mol mole moles
molar 1 M
percent 1/100 % percent
speed 1 mph
ph 1 kph kmh
"""


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit as a product of dimensions, and its size."""

    dimensions: tuple[tuple[str, int], ...]
    size: Fraction


def _base_units() -> dict[str, tuple[str, Fraction]]:
    table = {}
    for line in _TABLE.strip().splitlines():
        dimension, size, *names = line.split()
        for name in names:
            table[name] = (dimension, Fraction(size))
    return table


BASE_UNITS = _base_units()
_PART = re.compile(
    r"\s*(?P<over>/|\bper\b|\bp\b)?\s*[*·.]?\s*(?P<shape>(?:square|sq|cubic|cu)\b\.?\s*)?"
    r"(?P<name>°\s?[CF]\b|[^\W\d_]+|[°%$¤€£¥₹¢])\.?\s*"
    r"(?:\^?\s*\{?\s*(?P<power>-?\d)\s*\}?|(?P<after>squared|cubed)\b)?\s*"
)


def unit_of(text: str) -> Unit | None:
    """Return the unit that a text names (`cm^2`, `km/h`, `square meters`); None for other text."""
    dimensions: dict[str, int] = {}
    size = Fraction(1)
    position = 0
    while position < len(text):
        part = _PART.match(text, position)
        base = part and _base_unit(part["name"].replace(" ", ""))
        if part is None or base is None or len(dimensions) > 4:
            return None
        power = int(part["power"] or 0) or POWERS.get(part["after"] or "", 1)
        power *= POWERS.get((part["shape"] or "").strip(" ."), 1) * (-1 if part["over"] else 1)
        dimensions[base[0]] = dimensions.get(base[0], 0) + power
        size *= base[1] ** power
        position = part.end()
    kept = tuple(sorted((name, power) for name, power in dimensions.items() if power))
    return Unit(kept, size) if kept else None


def _base_unit(name: str) -> tuple[str, Fraction] | None:
    return BASE_UNITS.get(name) or BASE_UNITS.get(name.casefold())
