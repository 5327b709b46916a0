"""What a request asks for, checked against the model: pure. Bodies are decoded elsewhere; this serves HTTP and library alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypedDict

from dtesn_sidecar.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from dtesn_api.spec import ModelConfiguration
    from dtesn_api.wire import Output
    from dtesn_sidecar.model.readout.value import Readout

DEPTHS: Final = (1, 16)
SIZES: Final = (32, 4096)
PRIORITIES: Final = (0, 2)
OUTPUTS: Final = ("summary", "features", "readout")


class Options(TypedDict, total=False):
    """The network, the output, the priority and the deadline, as keywords."""

    membrane_depth: int | None
    esn_size: int | None
    priority: int
    timeout: float | None
    model: str | None
    output: str | None


@dataclass(frozen=True, slots=True)
class Wanted:
    """The network and the output that a request wants, and its deadline in seconds (None: the default)."""

    depth: int
    esn_size: int
    output: Output
    priority: int
    timeout: float | None


def checked(
    configured: ModelConfiguration,
    max_timeout: float,
    *,
    membrane_depth: int | None = None,
    esn_size: int | None = None,
    priority: int = 1,
    timeout: float | None = None,
    model: str | None = None,
    output: str | None = None,
    readout: Readout | None = None,
) -> Wanted:
    """The request with the model's own depth and size where it names none, and with the readout's output where there is one for them.

    Raises NotFound for another model's name, and InvalidInput naming the field, the value and the range.
    """
    if model is not None and model != configured.name:
        raise NotFound(
            f"there is no model {model[:64]!r} here, only {configured.name!r}", field="model", value=model, expected=repr(configured.name)
        )
    if output is not None and output not in OUTPUTS:
        raise _invalid("output", output, "one of " + ", ".join(OUTPUTS))
    _in_time(timeout, max_timeout)
    _in_range("priority", priority, PRIORITIES)
    depth = configured.membrane_depth if membrane_depth is None else _in_range("membrane_depth", membrane_depth, DEPTHS)
    size = configured.esn_size if esn_size is None else _in_range("esn_size", esn_size, SIZES)
    return Wanted(depth=depth, esn_size=size, output=_output(output, depth, size, readout), priority=priority, timeout=timeout)


def _output(wanted: str | None, depth: int, size: int, readout: Readout | None) -> Output:
    fitted = readout is not None and readout.is_for(depth, size)
    match wanted:
        case "summary" | "features":
            return wanted
        case "readout" if not fitted:
            has = f"only for membrane_depth {readout.depth} and esn_size {readout.esn_size}" if readout is not None else "none at all"
            here = f"no readout is fitted for membrane_depth {depth} and esn_size {size} ({has})"
            raise _invalid("output", wanted, f"summary or features: {here}")
        case _:
            return "readout" if fitted else "summary"


def _in_time(timeout: object, most: float) -> None:
    if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout <= most):
        raise _invalid("timeout", timeout, f"more than 0 and at most {most:g} seconds")


def _in_range(field: str, value: object, bounds: tuple[int, int]) -> int:
    low, high = bounds
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise _invalid(field, value, f"an integer from {low} to {high}")
    return value


def _invalid(field: str, value: object, expected: str) -> InvalidInput:
    shown = repr(value)
    return InvalidInput(
        f"{field} is {shown if len(shown) <= 80 else shown[:77] + '...'}, expected {expected}", field=field, value=value, expected=expected
    )
