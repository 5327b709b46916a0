"""A typed client of the sidecar's HTTP API: retries that never amplify an overload, one deadline over all attempts.

```python
async with DTESNClient("http://localhost:8080") as client:
    answer = await client.process("some text", membrane_depth=4, priority=0, timeout=2.0)
    print(answer.result.processed_output.summary)
```

Depends on aiohttp, msgspec and the contract package alone; nothing of the server is imported. Answers are the structs of
`dtesn_api.wire`, errors those of `errors.py`; when a call is made again is `retries.py`.
"""

from dtesn_sidecar.client.answers import features_array, features_of, result_of
from dtesn_sidecar.client.calls import DTESNClient
from dtesn_sidecar.client.errors import (
    BadAnswer,
    BadRequest,
    ClientError,
    ConnectionFailed,
    DeadlineExceeded,
    InvalidInput,
    NotFound,
    Overloaded,
    RequestTooLarge,
    ServerError,
    ServerFailed,
    TimedOut,
    Unavailable,
)
from dtesn_sidecar.client.retries import RetryPolicy

__all__ = [
    "BadAnswer",
    "BadRequest",
    "ClientError",
    "ConnectionFailed",
    "DTESNClient",
    "DeadlineExceeded",
    "InvalidInput",
    "NotFound",
    "Overloaded",
    "RequestTooLarge",
    "RetryPolicy",
    "ServerError",
    "ServerFailed",
    "TimedOut",
    "Unavailable",
    "features_array",
    "features_of",
    "result_of",
]
