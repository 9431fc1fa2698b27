"""One module per family; importing this package registers all of them."""

from igcnet.models import (
    igc,
    igcv2,
    igcv3,
    igcv3_wide,
    menet,
    mobilenet,
    mobilenetv2,
    shufflenet,
)
from igcnet.registry import register

for _family in (igc, shufflenet, menet, mobilenet, igcv2, igcv3, igcv3_wide, mobilenetv2):
    register(_family.SPECS)
