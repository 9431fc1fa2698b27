"""One module per family; importing this package registers all of them."""

from igcnet.models import (
    densenet,
    dgc,
    igc,
    igcv2,
    igcv3,
    igcv3_wide,
    menet,
    mobilenet,
    mobilenetv2,
    resnet,
    shufflenet,
    slimmable_mobilenet,
    slimmable_resnet,
)
from igcnet.registry import register

for _family in (igc, shufflenet, menet, mobilenet, igcv2, igcv3, igcv3_wide, mobilenetv2,
                slimmable_mobilenet, slimmable_resnet, densenet, dgc, resnet):
    register(_family.SPECS)
