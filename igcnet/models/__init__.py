"""One module per family; importing this package registers all of them."""

from igcnet.models import igc, menet, mobilenet, shufflenet
from igcnet.registry import register

for _family in (igc, shufflenet, menet, mobilenet):
    register(_family.SPECS)
