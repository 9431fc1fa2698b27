"""The channel shuffle, which the IGC original calls Reorder."""

from __future__ import annotations

from igcnet.errors import UsageError
from igcnet.layers.naming import NamedLayer


class ChannelShuffle(NamedLayer):
    """Channel shuffle with k groups: view the channels as (k, C/k) and swap the two axes.

    Output channel ``j*k + i`` is input channel ``i*(C/k) + j``. The shuffle with C/k groups is
    its inverse. The IGC original's C++ operator ``Reorder(branch_factor=k)`` is the same map.

    Inputs: `data` (N, channels, H, W). Outputs: the same shape.

    Parameters
    ----------
    channels : int
        Number of channels C.
    groups : int
        Number of groups k, the original's ``branch_factor``.

    Raises
    ------
    UsageError
        When `channels` does not divide by `groups`.
    """

    def __init__(self, name: str, channels: int, groups: int):
        if groups < 1 or channels % groups:
            raise UsageError('%s: %d channels do not divide by %d shuffle groups'
                             % (name, channels, groups))
        super().__init__(name)
        self.channels, self.groups = channels, groups

    def hybrid_forward(self, F, x):
        # These three operators in this form are the ones that oneDNN handles right in
        # hybridised networks; reshape + transpose + reshape_like is not.
        x = F.reshape(x, shape=(0, -4, self.groups, -1, -2), name='split')
        x = F.swapaxes(x, dim1=1, dim2=2, name='swap')
        with self.exact_name():
            return F.reshape(x, shape=(0, -3, -2))

    def __repr__(self):
        return 'ChannelShuffle(%d, groups=%d)' % (self.channels, self.groups)
