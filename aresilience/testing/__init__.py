"""The testing kit of this package, for its users too.

- `VirtualLoop`, `run_virtual`: an event loop whose clock jumps to the next timer, so that an hour costs
  nothing, and that raises `Deadlock` when nothing can ever happen again. As a pytest plugin (it
  registers itself): `@pytest.mark.virtual_time`, or `virtual_time = true` in the configuration. With a
  seed it also shuffles what is ready to run, the same way each time.
- `quick_retries`: retries that do not wait, and end after as many attempts as a test has use for.
- `Recorder`: a listener that remembers events.
- `cancel_sweep`: cancels a coroutine at every one of its awaits and checks that nothing leaked and
  that no cancel was lost.
- `FaultyBackend`: a backend in memory whose answers are late, lost or doubled, by plan or by seed.
- `FaultProxy`: between a client and a real server: delays, swallows, resets, splits.
- `check_idempotency_store`: whether a store of your own keeps its contract.
- `check_saga_store`: what a store of sagas must do, for one of your own.
- `check_registry_store`: the contract of a store of registrations.
- `SeededEntropy`: chance that repeats; the virtual loop has one.
"""

from aresilience.chance import SeededEntropy
from aresilience.testing.cancel import CancelSweepError, SweepReport, cancel_sweep
from aresilience.testing.faulty import Fault, FaultyBackend, StoreCall
from aresilience.testing.idempotency import check_idempotency_store
from aresilience.testing.proxy import FaultProxy, Traffic
from aresilience.testing.recorder import Recorder
from aresilience.testing.registry import check_registry_store
from aresilience.testing.retries import quick_retries
from aresilience.testing.saga_store import check_saga_store
from aresilience.testing.virtual import Deadlock, VirtualLoop, run_virtual

__all__ = [
    "CancelSweepError",
    "Deadlock",
    "Fault",
    "FaultProxy",
    "FaultyBackend",
    "Recorder",
    "SeededEntropy",
    "StoreCall",
    "SweepReport",
    "Traffic",
    "VirtualLoop",
    "cancel_sweep",
    "check_idempotency_store",
    "check_registry_store",
    "check_saga_store",
    "quick_retries",
    "run_virtual",
]
