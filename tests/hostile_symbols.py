"""Loads a symbol file again and again with other attributes, links and operators.

A script, since what it looks for would end the process: ``symbol params scratch first count``.
"""

import copy
import json
import random
import sys

import mxnet as mx

from igcnet.convert import load_network, operators
from igcnet.errors import CheckpointError

WHOLE = [0, 1, 2, 3, 4, 5, 8, -1, -2, -3, -4, 100, 2 ** 31 - 1]


def some_text(rng, attribute):
    """A text of the right type for an attribute."""
    if attribute.kind == 'bool':
        return rng.choice(['True', 'False'])
    if attribute.kind == 'choice':
        return rng.choice(attribute.choices)
    if attribute.kind == 'float':
        return rng.choice(['0', '-1', '1e-30', '1e30', 'nan'])
    if attribute.kind == 'int':
        return str(rng.choice(WHOLE))
    return str(tuple(rng.choice(WHOLE[:-2]) for _ in range(rng.randrange(6))))


def damage(rng, value):
    """Change one thing in the JSON value of a symbol file."""
    node = rng.choice([node for node in value['nodes'] if node['op'] != 'null'])
    known = operators.get_operator(node['op']).attributes
    if known and rng.random() < 0.7:
        key = rng.choice(sorted(known))
        node.setdefault('attrs', {})[key] = some_text(rng, known[key])
    elif rng.random() < 0.5:
        rng.choice(node['inputs'])[rng.randrange(2)] = rng.choice([0, 1, 2, -1, 9, 10 ** 9])
    else:
        node['op'] = rng.choice(sorted(operators.ALLOWED))


def main(symbol, params, scratch, first, count):
    with open(symbol) as stream:
        whole = json.load(stream)
    ran = refused = 0
    for seed in range(int(first), int(first) + int(count)):
        rng, value = random.Random(seed), copy.deepcopy(whole)
        for _ in range(rng.choice([1, 1, 2])):
            damage(rng, value)
        with open(scratch, 'w') as stream:
            json.dump(value, stream)
        try:
            net = load_network(symbol=scratch, params=params)
        except CheckpointError as problem:
            assert '\n' not in str(problem)
            refused += 1
            continue
        try:
            net(mx.nd.ones((1, 3, 32, 32))).asnumpy()
            ran += 1
        except mx.MXNetError:
            pass
    assert ran > 10 and refused > 10, (ran, refused)


if __name__ == '__main__':
    main(*sys.argv[1:])
