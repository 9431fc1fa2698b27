"""How each family's parameters are called in its original: one module per family.

Each module has

- ``torch_names(net)``: for every parameter path of `net` (as in ``save_parameters``) the key in
  the original's ``state_dict``;
- ``torch_extras(net)``: entries that only the original has, with the values to write;
- ``WRAPPER``: what its files hold around the ``state_dict``.
"""
