"""One module per family; importing this package registers all of them."""

from igcnet.models import igc, igcv2, igcv3, igcv3_wide, mobilenetv2
from igcnet.registry import register

for _family in (igc, igcv2, igcv3, igcv3_wide, mobilenetv2):
    register(_family.SPECS)
