"""One module per family; importing this package registers all of them."""

from igcnet.models import igc, slimmable_mobilenet, slimmable_resnet
from igcnet.registry import register

for _family in (igc, slimmable_mobilenet, slimmable_resnet):
    register(_family.SPECS)
