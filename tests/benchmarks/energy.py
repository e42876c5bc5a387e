"""Energy that the machine counts: of the processor by RAPL, of NVIDIA devices by NVML. A machine that counts none has no meter.

Both count all that runs on the machine, so a figure is that of a training only where nothing else runs.
"""

import ctypes
from collections.abc import Callable
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
Counter = Callable[[], float]


class EnergyMeter:
    """Counts joules from its making on."""

    def __init__(self, counters: dict[str, Counter]) -> None:
        """counters: return joules since some time in the past, by device."""
        self._counters = counters
        self._first = {name: read() for name, read in counters.items()}

    def joules(self) -> dict[str, float]:
        """Joules so far, by device."""
        return {name: read() - self._first[name] for name, read in self._counters.items()}


def counters(powercap: Path = POWERCAP) -> dict[str, Counter]:
    """Returns the counters that can be read: `package-N` of RAPL, `gpu-N` of NVML; none on most virtual machines."""
    return rapl_counters(powercap) | nvml_counters()


def rapl_counters(powercap: Path) -> dict[str, Counter]:
    """Returns a counter for each processor package below a powercap folder that this user may read."""
    found: dict[str, Counter] = {}
    for zone in sorted(powercap.glob("intel-rapl:*")):
        if zone.name.count(":") == 1:  # the zones below a package are parts of it
            try:
                (zone / "energy_uj").read_text()
                found[(zone / "name").read_text().strip()] = RaplCounter(zone)
            except PermissionError:
                continue
    return found


class RaplCounter:
    """A counter of microjoules that starts again at 0 after its largest value; read at least once in each round of it."""

    def __init__(self, zone: Path) -> None:
        self._file = zone / "energy_uj"
        self._range = int((zone / "max_energy_range_uj").read_text())
        self._last, self._rounds = 0, 0

    def __call__(self) -> float:
        now = int(self._file.read_text())
        self._rounds += now < self._last
        self._last = now
        return (now + self._rounds * self._range) / 1e6


def nvml_counters() -> dict[str, Counter]:
    """Returns a counter for each NVIDIA device whose driver counts millijoules."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return {}
    num = ctypes.c_uint()
    if nvml.nvmlInit_v2() or nvml.nvmlDeviceGetCount_v2(ctypes.byref(num)):
        return {}
    found: dict[str, Counter] = {}
    for number in range(num.value):
        device, value = ctypes.c_void_p(), ctypes.c_ulonglong()
        if nvml.nvmlDeviceGetHandleByIndex_v2(number, ctypes.byref(device)):
            continue

        def read(device: ctypes.c_void_p = device) -> float:
            value = ctypes.c_ulonglong()
            if nvml.nvmlDeviceGetTotalEnergyConsumption(device, ctypes.byref(value)):
                raise OSError("NVML no longer counts the energy of this device")
            return value.value / 1e3

        if not nvml.nvmlDeviceGetTotalEnergyConsumption(device, ctypes.byref(value)):
            found[f"gpu-{number}"] = read
    return found
