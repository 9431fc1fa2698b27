"""Inference: our optimised forms beside ONNX Runtime on the naive export, and PyTorch.

    python benchmarks/inference_speed.py                  # all rows, two threads
    python benchmarks/inference_speed.py --rows igcv3 --short --json speed.json

Each row is a network at its input size with batches of 1 and 32, all forms taking turns; the
ratio of our faster form to ONNX Runtime on the graph as PyTorch exports it stands beside what was
aimed at. The choice of each form is measured first, on the same machine, and remembered.
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

# Row -> network, settings, ratio aimed at for batch 1 and for batch 32.
ROWS = {
    'plain_igc': ('plain_igc_d38l24m2', {}, 2.0, 2.0),
    'igcv3': ('igcv3_imagenet', {}, 1.4, 1.9),
    'igc_l100m2': ('igc_l100m2_imagenet', {}, 1.2, 1.2),
    'menet': ('menet228_12x1_g3', {}, 1.2, 1.2),
    'shufflenet': ('shufflenet_1x_g3', {}, 1.2, 1.2),
    'igcv2': ('igcv2', {}, None, None),
    'dydensenet': ('dydensenet_imagenet', {'selection': 'static'}, 1.2, 1.2),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('--rows', default=','.join(ROWS), help='rows, with commas between them')
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--batch-sizes', default='1,32')
    parser.add_argument('--short', action='store_true', help='3 short turns in place of 9')
    parser.add_argument('--no-torch', action='store_true', help='leave PyTorch out')
    parser.add_argument('--no-int8', action='store_true', help='leave eight bits out')
    parser.add_argument('--json', metavar='FILE', help='write everything as JSON')
    args = parser.parse_args()
    os.environ['OMP_NUM_THREADS'] = str(args.threads)
    from igcnet._backend import set_threads
    set_threads(args.threads)
    import igcnet
    from igcnet.deploy.bench import (
        FORMS,
        INT8,
        NAIVE,
        OURS,
        STOCK,
        bench,
        format_bench,
        give_random_parameters,
    )
    from igcnet.files import write_json

    forms = [form for form in FORMS if not (
        (args.no_torch and form.startswith('PyTorch')) or (args.no_int8 and form in INT8))]
    sizes = [int(word) for word in args.batch_sizes.split(',')]
    results, verdicts = [], []
    for row in args.rows.split(','):
        name, settings, *goals = ROWS[row]
        net = igcnet.get_model(name, **settings)
        give_random_parameters(net, igcnet.get_spec(name).preprocessing.input_size)
        result = bench(net, name, None, sizes, forms, *((3, 0.1) if args.short else (9, 0.5)),
                       report=lambda line: print('  ' + line, file=sys.stderr, flush=True))
        print(format_bench(result) + '\n', flush=True)
        results.append(result.as_dict())
        for size in sizes:
            goal = goals[0 if size == 1 else 1]
            best, whole = (min(group, key=lambda form: result.find(form, size) or 1e9)
                           for group in (OURS, INT8))
            verdicts.append('%-12s batch %-3d %-24s %s x naive ONNX Runtime%s, %s x stock' % (
                row, size, best, two_digits(result.ratio(best, NAIVE, size)),
                '' if goal is None else ' (aim %.1f)' % goal,
                two_digits(result.ratio(best, STOCK, size))))
            verdicts.append('%-12s batch %-3d %-24s %s x our float32 (aim 1.5 with VNNI)' % (
                row, size, whole, two_digits(result.ratio(whole, best, size))))
    print('\n'.join(verdicts))
    if args.json:
        write_json(args.json, results)


def two_digits(ratio):
    return '-' if ratio is None else '%.2f' % ratio


if __name__ == '__main__':
    main()
