"""One module per family; importing this package registers all of them."""

from igcnet.models import igc
from igcnet.registry import register

for _family in (igc,):
    register(_family.SPECS)
