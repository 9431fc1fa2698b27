"""Exact rewritings of a network: functions from `igcnet.deploy.model.Model` to `Model`.

What each computes stays the same to rounding; `igcnet.deploy.optimizing` checks it with numbers.
"""
