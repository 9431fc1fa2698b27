"""One module per family; importing this package registers all of them."""

from igcnet.models import densenet, dgc, igc, resnet
from igcnet.registry import register

for _family in (igc, densenet, resnet, dgc):
    register(_family.SPECS)
