"""Exact counts of a network, parameters and multiply-adds, layer by layer; and its times.

``macs`` are the multiply-adds of convolutions and fully connected layers, without bias, for the
whole batch of the given input shape. Other operators (BN, pooling, sums) count nothing. Papers
differ from this and from each other: published figures stand beside ours in `igcnet list`.
"""

from igcnet.profiling.counting import (
    LayerProfile,
    Profile,
    count_macs,
    count_parameters,
    profile,
)
from igcnet.profiling.report import format_csv, format_table
from igcnet.profiling.timing import StepTimes, format_times, time_step

__all__ = ['LayerProfile', 'Profile', 'StepTimes', 'count_macs', 'count_parameters', 'format_csv',
           'format_table', 'format_times', 'profile', 'time_step']
