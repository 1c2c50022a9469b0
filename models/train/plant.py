"""A pump set: motor, bearing, centrifugal pump and control valve, with eight voted quantities.

Owns the physics of the data that the `pump-*` models are trained and judged on; nothing here knows a model. One tick is one
second. Everything is drawn from the generator that the caller passes in. Arrays have the shape [machine, tick].

What is modelled, and what for:

- Demand: orders of 60 to 600 s with pauses between them (machine.production), which the valve follows within seconds.
- Pump: head = H0 - k q^2; pipe and filter take R q^2, the valve (q / Kv)^2 with an equal-percentage characteristic; the
  operating point is where both meet. Suction pressure falls with flow. Shaft power gives the motor's current.
- Bearing: ambient, plus the housing's rise with power (10 minutes), plus the bearing's own with friction (1.5 minutes).
- Vibration (RMS of velocity): grows with power and away from the best point of the pump; log-normal scatter.
- Fluid: its own slow temperature, warmed a little by the pump's losses.
- Machines differ by a few percent in each constant. Sensors: three each, with offset, noise and resolution; at times one is
  voted out, so that the median steps a little.

Faults (KINDS) grow from nothing to 0.6 to 1 of their full size within 20 s to 10 minutes. The figures are plausible for a
7.5 kW pump set; they are not measurements of a real one.
"""

from dataclasses import dataclass

import numpy as np

import machine

QUANTITIES = (
    "bearing-temperature", "vibration-rms", "motor-current", "suction-pressure",
    "discharge-pressure", "flow", "valve-position", "fluid-temperature",
)
UNITS = ("celsius", "mm/s", "A", "bar", "bar", "m3/h", "%", "celsius")
RANGES = ((-40.0, 125.0), (0.0, 50.0), (0.0, 50.0), (-1.0, 10.0), (-1.0, 25.0), (0.0, 100.0), (-5.0, 105.0), (-20.0, 120.0))
SENSOR_OFFSET = np.array((0.4, 0.05, 0.10, 0.01, 0.03, 0.25, 0.4, 0.3))
SENSOR_NOISE = np.array((0.10, 0.05, 0.08, 0.01, 0.03, 0.30, 0.3, 0.10))
SENSOR_RESOLUTION = np.array((0.0625, 0.01, 0.01, 0.002, 0.005, 0.05, 0.1, 0.0625))
SENSORS = 3
TICKS = 1800
FAULT_ONSET = (600, 900)
# A fault counts as present from this share of its full size on.
PRESENT_SEVERITY = 0.5


@dataclass(frozen=True)
class Kind:
    """A kind of fault at full size."""

    name: str
    vibration: float = 0.0  # gain
    friction: float = 0.0  # added to the healthy 1
    head: float = 0.0  # share of the head that is lost
    suction: float = 0.0  # bar lost at the suction side at 30 m3/h, more with flow
    filter: float = 0.0  # resistance of pipe and filter times (1 + it)
    leak: float = 0.0  # share of the flow that is lost before the meter
    valve: float = 0.0  # Kv times (1 + it): a worn seat, a loose stem below 0
    cooling: float = 0.0  # thermal resistance times (1 + it)


KINDS = (
    Kind("bearing-wear", vibration=0.9, friction=1.2),
    Kind("lubrication-loss", vibration=0.3, friction=2.0),
    Kind("impeller-wear", head=0.22, vibration=0.15),
    Kind("cavitation", suction=0.45, head=0.08, vibration=0.8),
    Kind("clogged-filter", filter=6.0),
    Kind("leak", leak=0.30),
    Kind("valve-wear", valve=0.8),
    Kind("cooling-loss", cooling=3.0),
)
HEALTHY = Kind("healthy")


def simulate(rng: np.random.Generator, count: int, kind: Kind, size: np.ndarray) -> np.ndarray:
    """True values [machine, tick, quantity]; `size` [machine, tick] is the fault's size, 0 to 1."""
    def around(mean: float, spread: float) -> np.ndarray:
        return mean * (1.0 + spread * np.clip(rng.standard_normal(count), -2.0, 2.0))[:, None]

    ticks = size.shape[1]
    demand = machine.production(rng, count, ticks)
    valve = np.clip(100.0 * demand * 0.9, 3.0, 100.0)
    head = around(6.0, 0.02) * (1.0 - kind.head * size)
    curve, pipe = around(0.0011, 0.03), around(0.0012, 0.03) * (1.0 + kind.filter * size)
    kv = around(22.0, 0.03) * 30.0 ** (valve / 100.0 - 1.0) * (1.0 + kind.valve * size)
    suction_static = around(1.6, 0.02) + machine.autoregressive(rng, count, ticks, 0.999, 0.03)
    inlet = (0.00025 + kind.suction * size / 900.0)
    # Head and static suction pressure against what the pipe, the filter and the valve take.
    flow = np.sqrt((head + suction_static) / (curve + pipe + inlet + 1.0 / kv**2))
    flow = flow * (1.0 + machine.autoregressive(rng, count, ticks, 0.6, 0.006))
    suction = suction_static - inlet * flow**2
    discharge = suction + head - curve * flow**2

    best = 30.0
    efficiency = 0.72 - 0.00035 * (flow - best) ** 2
    power = (discharge - suction) * flow / 36.0 / np.maximum(efficiency, 0.3)  # kW
    friction = (0.7 + 0.3 * flow / best) * (1.0 + kind.friction * size)
    current = around(5.0, 0.02) + around(1.25, 0.02) * power + 0.4 * kind.friction * size
    vibration = around(1.6, 0.05) * (0.6 + 0.08 * power + 0.0008 * (flow - best) ** 2)
    vibration = vibration * (1.0 + kind.vibration * size)
    vibration = vibration * np.exp(machine.autoregressive(rng, count, ticks, 0.3, 0.05))

    ambient = rng.uniform(20.0, 24.0, count)[:, None] + machine.autoregressive(rng, count, ticks, 0.9995, 0.6)
    fluid = rng.uniform(22.0, 28.0, count)[:, None] + machine.autoregressive(rng, count, ticks, 0.9995, 0.8)
    fluid = fluid + 0.15 * power
    housing = around(2.2, 0.05) * power * (1.0 + kind.cooling * size)
    housing = machine.first_order(housing, np.full(count, 600.0), housing[:, :600].mean(axis=1))
    bearing = around(8.0, 0.05) * friction
    bearing = machine.first_order(bearing, np.full(count, 90.0), bearing[:, :90].mean(axis=1))
    metered = flow * (1.0 - kind.leak * size)
    return np.stack(
        [ambient + housing + bearing, vibration, current, suction, discharge, metered, valve, fluid], axis=2
    )


def sense(rng: np.random.Generator, true: np.ndarray) -> np.ndarray:
    """Voted values of three redundant sensors on each quantity."""
    count, ticks, quantities = true.shape
    offset = rng.uniform(-1.0, 1.0, (count, 1, quantities, SENSORS)) * SENSOR_OFFSET[None, None, :, None]
    noise = rng.standard_normal((count, ticks, quantities, SENSORS)) * SENSOR_NOISE[None, None, :, None]
    resolution = SENSOR_RESOLUTION[None, None, :, None]
    samples = np.round((true[..., None] + offset + noise) / resolution) * resolution
    return machine.vote(rng, samples)


def healthy_fleet(rng: np.random.Generator, count: int, ticks: int = TICKS) -> np.ndarray:
    """Voted values of healthy machines, [machine, tick, quantity]."""
    return sense(rng, simulate(rng, count, HEALTHY, np.zeros((count, ticks))))


def faulty_fleet(rng: np.random.Generator, count: int, kind: Kind) -> tuple:
    """Voted values of machines that develop `kind`; how far it has grown; the tick of its first trace."""
    onset = rng.integers(*FAULT_ONSET, count)
    growth = machine.severity(rng, count, TICKS, onset)
    size = growth * rng.uniform(0.6, 1.0, count)[:, None]
    return sense(rng, simulate(rng, count, kind, size)), growth, onset
