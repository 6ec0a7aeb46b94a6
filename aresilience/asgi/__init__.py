"""ASGI: limits, permits, deadlines and refusals at the door of a service, for every framework.

What it is for: what the policies decide, said in HTTP: 429 and 503 with Retry-After, 504, rate limit fields, a
deadline from the caller and to the next service. Plain ASGI: a class with an application inside; contexts,
streaming, trailers and background tasks are the application's as ever.

Use, the first outermost:

    app = RejectedMiddleware(                                          # refusals of any policy: 429, 503
        DeadlineMiddleware(                                            # X-Request-Timeout: 2.5
            RateLimitMiddleware(
                BulkheadMiddleware(app, bulkhead=ar.Bulkhead(100, max_waiting=50, max_wait=0.5)),
                limits=[Limit(ar.RateLimiter("100/s"), key=ClientIP(trusted_hops=1))],
            ),
            maximum=30,
        )
    )

In Starlette and FastAPI `app.add_middleware(RateLimitMiddleware, limits=[…])`, the last added outermost. Add
`RejectedMiddleware` that way, not around the application: that turns errors into a 500 of its own. Litestar
turns the errors of handlers into responses before any middleware sees them: there an exception handler for
`ar.Rejected` returns what `as_problem(error)` says, and the others are middleware as everywhere.

`RegistryLifespan(app, registry=…, instance=…)` registers the service while it can serve, outermost;
`RegistryApp(registry)` is the registry over HTTP.

Defaults: no header is believed; HEAD and OPTIONS are not limited; nobody waits but in a bulkhead's queue; the
body of a refusal is a fixed text. Each middleware checks its options when it is made, answers its own
refusals (under a `RejectedMiddleware`, by that one's options), and leaves lifespan and unknown scopes alone.

Events: those of the limiters and bulkheads, which know no request.

When the store is down, the limiter's `on_store_error` decides; under "raise" the answer is 503, never a 500.

What not to do: believe X-Forwarded-For from more proxies than there are; limit by nothing but a header that
anybody can make up; hold a bulkhead's permits with websockets or endless streams; let strangers send the
deadline header.
"""

from aresilience.asgi.answers import as_problem
from aresilience.asgi.bulkhead import BulkheadMiddleware
from aresilience.asgi.client_ip import ClientIP
from aresilience.asgi.deadline import DeadlineMiddleware, deadline_headers
from aresilience.asgi.idempotency import IdempotencyMiddleware
from aresilience.asgi.keys import Header
from aresilience.asgi.lifespan import RegistryLifespan
from aresilience.asgi.limit import Limit
from aresilience.asgi.problem import Problem
from aresilience.asgi.rate_limit import RateLimitMiddleware
from aresilience.asgi.registry import RegistryApp
from aresilience.asgi.rejected import RejectedMiddleware

__all__ = [
    "BulkheadMiddleware",
    "ClientIP",
    "DeadlineMiddleware",
    "Header",
    "IdempotencyMiddleware",
    "Limit",
    "Problem",
    "RateLimitMiddleware",
    "RegistryApp",
    "RegistryLifespan",
    "RejectedMiddleware",
    "as_problem",
    "deadline_headers",
]
