"""A press-line motor and the three redundant sensors on each of its quantities.

Owns the physics of the training data and of the demo trace: nothing here knows the model. One tick
is one second. Everything is drawn from the generator that the caller passes in, so a seed gives the
same machines for ever. All arrays have the shape [machine, tick] unless said otherwise.

The motor drives a press through a gear. What is modelled, and what for:

- Production: orders of 60 to 600 s with a load of 30 to 100 % of the nominal one, pauses at 12 %
  between them, ramps of a few seconds, and the scatter from stroke to stroke (AR(1)).
- Current: no-load current plus a part in proportion to load; friction adds to it.
- Bearing temperature: ambient, plus the housing's rise with load (slow, 10 minutes), plus the
  bearing's own rise with friction (fast, 1.5 minutes). Ambient wanders over the day.
- Vibration (RMS of velocity, as in ISO 20816): a base that grows with load, log-normal scatter.
- Machines differ: current, vibration, thermal resistance and ambient are drawn for each.
- Sensors: a fixed offset each, noise, resolution. At times one is voted out, so that the median of
  the rest steps a little: this must not look like a fault of the machine.

Faults (KINDS) grow from nothing to a size drawn for each machine, within 20 s to 10 minutes.
The figures are plausible for a 5 kW motor; they are not measurements of a real one.
"""

from dataclasses import dataclass

import numpy as np

QUANTITIES = ("bearing-temperature", "vibration-rms", "motor-current")
UNITS = ("celsius", "mm/s", "A")

# Sensors, for each quantity: largest offset, noise (standard deviation), resolution, in its unit.
# The temperature sensor is a TMP102: 0.0625 K a step.
SENSOR_OFFSET = (0.4, 0.05, 0.10)
SENSOR_NOISE = (0.10, 0.05, 0.08)
SENSOR_RESOLUTION = (0.0625, 0.01, 0.01)
SENSORS = 3

HOUSING_TAU_S = 600.0
BEARING_TAU_S = 90.0


@dataclass(frozen=True)
class Kind:
    """A kind of fault at full size. A machine has 0.6 to 1 times of it."""

    name: str
    vibration_gain: float  # vibration times (1 + gain)
    friction: float  # added to the bearing's friction, 1 is the healthy one
    jam: float  # load that the fault forces on the motor in place of the ordered one, or 0
    cooling: float  # housing's thermal resistance times (1 + cooling)
    imbalance: float  # vibration at the speed of rotation, mm/s, whatever the load


KINDS = (
    Kind("bearing-wear", 0.9, 1.2, 0.0, 0.0, 0.0),
    Kind("lubrication-loss", 0.3, 2.0, 0.0, 0.0, 0.0),
    Kind("imbalance", 0.0, 0.1, 0.0, 0.0, 2.4),
    Kind("overload", 0.0, 0.0, 1.7, 0.0, 0.0),
    # A motor without its fan: about three and a half times the thermal resistance.
    Kind("cooling-loss", 0.0, 0.0, 0.0, 2.5, 0.0),
)


@dataclass
class Machines:
    """Machines of one fleet: what distinguishes each. Arrays of shape [machine]."""

    current_idle: np.ndarray  # A
    current_load: np.ndarray  # A at nominal load, on top
    vibration: np.ndarray  # mm/s at nominal load
    housing: np.ndarray  # K at nominal load
    bearing: np.ndarray  # K at friction 1
    ambient: np.ndarray  # celsius

    @staticmethod
    def draw(rng: np.random.Generator, count: int) -> "Machines":
        def around(mean: float, spread: float) -> np.ndarray:
            # Cut at two spreads: a machine further out would not have passed its acceptance.
            return mean * (1.0 + spread * np.clip(rng.standard_normal(count), -2.0, 2.0))

        return Machines(
            current_idle=around(5.0, 0.02),
            current_load=around(8.0, 0.02),
            vibration=around(2.0, 0.05),
            housing=around(10.0, 0.05),
            bearing=around(8.0, 0.05),
            ambient=rng.uniform(20.0, 24.0, count),
        )


def production(rng: np.random.Generator, count: int, ticks: int) -> np.ndarray:
    """Load, 0.1 to 1.05 of the nominal one: orders, pauses, ramps, scatter of the strokes."""
    load = np.empty((count, ticks))
    for machine in range(count):
        tick, level = 0, rng.uniform(0.3, 1.0)
        target = np.empty(ticks)
        while tick < ticks:
            length = int(rng.integers(60, 600))
            target[tick : tick + length] = level
            tick += length
            if rng.random() < 0.3:
                pause = int(rng.integers(20, 90))
                target[tick : tick + pause] = 0.12
                tick += pause
            level = rng.uniform(0.3, 1.0)
        load[machine] = target
    # The drive follows its set point within a few seconds, differently fast on each machine.
    load = first_order(load, rng.uniform(2.0, 4.0, count), load[:, 0])
    return load * (1.0 + autoregressive(rng, count, ticks, 0.6, 0.02))


def severity(rng: np.random.Generator, count: int, ticks: int, onset: np.ndarray) -> np.ndarray:
    """How far a fault has grown, 0 to 1 of its final size: a smooth ramp from `onset` (ticks)."""
    growth = np.exp(rng.uniform(np.log(20.0), np.log(600.0), count))
    ramp = np.clip((np.arange(ticks)[None, :] - onset[:, None]) / growth[:, None], 0.0, 1.0)
    return ramp * ramp * (3.0 - 2.0 * ramp)


def simulate(
    rng: np.random.Generator,
    machines: Machines,
    load: np.ndarray,
    kind: Kind | None,
    size: np.ndarray,
) -> np.ndarray:
    """True values [machine, tick, quantity]. `size` is the fault's size at each tick, 0 to 1."""
    count, ticks = load.shape
    fault = kind or Kind("healthy", 0.0, 0.0, 0.0, 0.0, 0.0)
    if fault.jam:
        load = load + size * np.maximum(fault.jam - load, 0.0)
    # Load makes friction too, but less than in proportion: the speed stays the same.
    friction = (0.7 + 0.3 * load) * (1.0 + fault.friction * size)

    current = machines.current_idle[:, None] + machines.current_load[:, None] * load
    # A healthy bearing takes about 4 % of the no-load current.
    current = current + 0.4 * fault.friction * size

    ambient = machines.ambient[:, None] + autoregressive(rng, count, ticks, 0.9995, 0.6)
    housing = machines.housing[:, None] * load * (1.0 + fault.cooling * size)
    housing = first_order(housing, np.full(count, HOUSING_TAU_S), housing[:, :600].mean(axis=1))
    bearing = machines.bearing[:, None] * friction
    bearing = first_order(bearing, np.full(count, BEARING_TAU_S), bearing[:, :90].mean(axis=1))
    temperature = ambient + housing + bearing

    base = machines.vibration[:, None] * (0.5 + 0.5 * load) * (1.0 + fault.vibration_gain * size)
    base = np.sqrt(base**2 + (fault.imbalance * size) ** 2)
    vibration = base * np.exp(autoregressive(rng, count, ticks, 0.3, 0.05))
    return np.stack([temperature, vibration, current], axis=2)


def sense(rng: np.random.Generator, true: np.ndarray) -> np.ndarray:
    """What healthy redundant sensors deliver: [machine, tick, quantity, sensor]."""
    count, ticks, quantities = true.shape
    offset = rng.uniform(-1.0, 1.0, (count, 1, quantities, SENSORS))
    offset = offset * np.array(SENSOR_OFFSET)[None, None, :, None]
    noise = rng.standard_normal((count, ticks, quantities, SENSORS))
    noise = noise * np.array(SENSOR_NOISE)[None, None, :, None]
    resolution = np.array(SENSOR_RESOLUTION)[None, None, :, None]
    return np.round((true[..., None] + offset + noise) / resolution) * resolution


def vote(rng: np.random.Generator, samples: np.ndarray) -> np.ndarray:
    """What the agent's voter makes of them: the median, at times without one of the sensors."""
    count, ticks, quantities, sensors = samples.shape
    voted = np.median(samples, axis=3)
    for machine in range(count):
        for quantity in range(quantities):
            if rng.random() < 0.5:
                start = int(rng.integers(0, ticks))
                stop = start + int(rng.integers(30, 300))
                kept = np.delete(np.arange(sensors), int(rng.integers(0, sensors)))
                part = samples[machine, start:stop, quantity][:, kept]
                voted[machine, start:stop, quantity] = np.median(part, axis=1)
    return voted


def first_order(target: np.ndarray, tau: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Follows `target` with the time constant `tau` (ticks, [machine]) from `start`."""
    share = 1.0 - np.exp(-1.0 / tau)
    value, out = start.astype(float).copy(), np.empty_like(target)
    for tick in range(target.shape[1]):
        value += share * (target[:, tick] - value)
        out[:, tick] = value
    return out


def autoregressive(
    rng: np.random.Generator, count: int, ticks: int, coefficient: float, deviation: float
) -> np.ndarray:
    """AR(1) of stationary standard deviation `deviation`, begun in its stationary state."""
    innovation = deviation * np.sqrt(1.0 - coefficient**2) * rng.standard_normal((count, ticks))
    value, out = deviation * rng.standard_normal(count), np.empty((count, ticks))
    for tick in range(ticks):
        value = coefficient * value + innovation[:, tick]
        out[:, tick] = value
    return out
