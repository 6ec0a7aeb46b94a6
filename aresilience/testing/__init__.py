"""The testing kit of this package, for its users too.

- `VirtualLoop`, `run_virtual`: an event loop whose clock jumps to the next timer, so that an hour costs
  nothing, and that raises `Deadlock` when nothing can ever happen again. As a pytest plugin (it
  registers itself): `@pytest.mark.virtual_time`, or `virtual_time = true` in the configuration. With a
  seed it also shuffles what is ready to run, the same way each time.
- `Recorder`: a listener that remembers events.
- `cancel_sweep`: cancels a coroutine at every one of its awaits and checks that nothing leaked and
  that no cancel was lost.
- `FaultyBackend`: a backend in memory whose answers are late, lost or doubled, by plan or by seed.
- `FaultProxy`: between a client and a real server: delays, swallows, resets, splits.
- `check_registry_store`: the contract of a store of registrations.
- `SeededEntropy`: chance that repeats; the virtual loop has one.
"""

from aresilience.chance import SeededEntropy
from aresilience.testing.cancel import CancelSweepError, SweepReport, cancel_sweep
from aresilience.testing.faulty import FaultyBackend
from aresilience.testing.proxy import FaultProxy
from aresilience.testing.recorder import Recorder
from aresilience.testing.registry import check_registry_store
from aresilience.testing.virtual import Deadlock, VirtualLoop, run_virtual

__all__ = [
    "CancelSweepError",
    "Deadlock",
    "FaultProxy",
    "FaultyBackend",
    "Recorder",
    "SeededEntropy",
    "SweepReport",
    "VirtualLoop",
    "cancel_sweep",
    "check_registry_store",
    "run_virtual",
]
