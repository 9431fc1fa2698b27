"""How each family's parameters are called in its original: one module per family.

Each module has

- ``torch_names(net)``: for every parameter path of `net` (as in ``save_parameters``) the key in
  the original's ``state_dict``; in the order in which the original has them;
- ``torch_extras(net)``: entries that only the original has, with the values to write;
- ``torch_others(net)``, if it needs any: values of the entries beside the ``state_dict`` to write.
  An entry without one is a label and gets the network's name;
- ``WRAPPER``: what its files hold around the ``state_dict``. ``state_dict`` names the entry,
  ``prefixes`` what the keys may begin with (the first is written), ``others`` the entries beside
  it that may be there, ``written`` those to write, ``ignored`` last parts of keys that mean nothing
  here, ``container`` ('legacy' if it is left out, or 'zip') the kind of file to write.

`igcnet.convert.torch_convert` does the rest.
"""
