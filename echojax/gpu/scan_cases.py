"""What scans are checked on: sizes, options, dtypes and directions."""

from typing import NamedTuple

from echojax.scan_comparison.settings import Shape

PLAIN: tuple[str, ...] = ()
MAMBA = ("D", "z", "delta_bias")
EVERYTHING = (*MAMBA, "initial_state", "lengths")
_GIVEN = {PLAIN: "nothing else", MAMBA: "D, z, bias", EVERYTHING: "everything"}


class Case(NamedTuple):
    """One check.

    Attributes:
        shape: B, L, E, N.
        given: the optional arguments.
        dtype: of u, delta, B, C and z; the rest is float32.
        reverse: whether the scan starts at the last position.
        softplus: whether softplus makes the time steps positive.
        small_steps: whether time steps are about a millionth.
    """

    shape: Shape
    given: tuple[str, ...] = EVERYTHING
    dtype: str = "float32"
    reverse: bool = False
    softplus: bool = True
    small_steps: bool = False

    def __str__(self) -> str:
        words = [str(self.shape), self.dtype, _GIVEN.get(self.given, ", ".join(self.given))]
        flags = {
            "reverse": self.reverse,
            "no softplus": not self.softplus,
            "small steps": self.small_steps,
        }
        return ", ".join(words + [word for word, is_set in flags.items() if is_set])


_BOTH = (False, True)
_ODD = Shape(2, 37, 5, 3)
_LONG = Shape(1, 5000, 64, 16)  # few rows: cut into segments of time that run side by side


def kernel_cases(*, rehearse: bool) -> list[Case]:
    """Return the cases of the GPU kernels, those that tell most in front."""
    if rehearse:
        return [
            Case(Shape(2, 9, 5, 3), reverse=True),
            Case(Shape(1, 70, 5, 69), dtype="bfloat16"),
        ]
    return [
        Case(Shape(16, 50, 128, 32), MAMBA),
        Case(Shape(16, 50, 128, 32), MAMBA, "bfloat16"),
        Case(Shape(8, 200, 128, 32), reverse=True),
        Case(Shape(8, 200, 128, 32), dtype="bfloat16", reverse=True),
        *(Case(_ODD, given, reverse=r) for given in (PLAIN, MAMBA, EVERYTHING) for r in _BOTH),
        *(Case(_ODD, EVERYTHING, "bfloat16", r) for r in _BOTH),
        *(Case(_LONG, reverse=r) for r in _BOTH),
        Case(_LONG, dtype="bfloat16", reverse=True),
        Case(Shape(3, 1000, 130, 32), reverse=True),
        Case(Shape(1, 16384, 32, 16), PLAIN),
        Case(Shape(1, 1, 1, 1)),
        Case(Shape(1, 9, 130, 16), reverse=True),
        # A block of channels is all there are: rows end inside of what is copied as one piece.
        *(Case(Shape(70, 37, 64, 16), MAMBA, reverse=r) for r in _BOTH),
        *(Case(Shape(2, 11, 4, n), reverse=n % 2 == 0) for n in (1, 2, 8, 16, 31, 64, 69, 130)),
        Case(Shape(1, 500, 4, 69), dtype="bfloat16"),
        *(Case(_ODD, (name,)) for name in EVERYTHING),
        Case(_ODD, PLAIN, softplus=False),
        Case(_ODD, PLAIN, small_steps=True),
    ]


def other_cases(*, rehearse: bool) -> list[Case]:
    """Return the cases of every other implementation."""
    if rehearse:
        return [Case(Shape(2, 9, 5, 3), reverse=True)]
    return [Case(_ODD), Case(Shape(8, 50, 128, 32), MAMBA, "bfloat16", reverse=True)]
