"""Operators in C++ for the lowering 'native', built once on each machine.

    python -m igcnet.native.build

`library` finds and loads what `build` has built; `igcnet.layers.lanes` uses the operators.
"""

from igcnet.native.library import load, missing

__all__ = ['load', 'missing']
