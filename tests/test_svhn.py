"""SVHN's MATLAB files, and what is refused."""

import numpy as np
import pytest
from scipy.io import savemat

from igcnet.cli.im2rec_pack import main
from igcnet.data.images import decode_image
from igcnet.data.records import RecordFile


def write_part(folder, part, count, seed):
    """A file as SVHN's; returns its pixels (N, 32, 32, 3) and labels."""
    draw = np.random.RandomState(seed)
    pixels = draw.randint(0, 256, (count, 32, 32, 3)).astype(np.uint8)
    labels = np.arange(count) % 10 + 1
    folder.mkdir(exist_ok=True)
    savemat(str(folder / (part + '_32x32.mat')), {
        'X': pixels.transpose(1, 2, 3, 0), 'y': labels[:, None].astype(np.uint8)},
        do_compression=True)
    return pixels, labels


def test_train_and_extra_are_one_part(tmp_path, capsys):
    folder = tmp_path / 'files'
    parts = [write_part(folder, part, count, seed)
             for seed, (part, count) in enumerate((('train', 25), ('extra', 12), ('test', 11)))]
    command = [str(tmp_path / 'svhn'), str(folder), '--dataset', 'svhn', '--no-shuffle',
               '--num-thread', '1']
    assert main(command) == 0
    train, test = (RecordFile(tmp_path / 'svhn' / part) for part in ('train', 'test'))
    assert len(train) == 37 and len(test) == 11 and train.classes == list('0123456789')
    pixels = np.concatenate([parts[0][0], parts[1][0]])
    labels = np.concatenate([parts[0][1], parts[1][1]]) % 10
    for position in range(37):
        record = train.read(position)
        assert record.label == labels[position]
        assert np.array_equal(decode_image(record.image, 'x'), pixels[position])
    assert train.manifest['source'] == {'kind': 'svhn', 'form': 'mat'}
    (folder / 'extra_32x32.mat').unlink()
    capsys.readouterr()
    assert main(command) == 0
    assert len(RecordFile(tmp_path / 'svhn' / 'train')) == 25
    assert 'warning: extra_32x32.mat is not in' in capsys.readouterr().err


@pytest.mark.parametrize('content, message', [
    (None, 'not the files of svhn'), (b'', 'not a readable MATLAB file'),
    (b'MATLAB 5.0' + bytes(200), 'not '), ({'X': np.zeros((8, 8, 3, 2), np.uint8), 'y': [1, 2]},
                                           'not cropped digits of SVHN'),
    ({'X': np.zeros((32, 32, 3, 2), np.uint8), 'y': [1, 11]}, 'they must be 1 to 10'),
    ({'X': np.zeros((32, 32, 3, 2), np.uint8), 'y': [1, 2, 3]}, 'not cropped digits of SVHN'),
])
def test_faults(tmp_path, capsys, content, message):
    write_part(tmp_path / 'files', 'train', 3, 0)
    path = tmp_path / 'files' / 'test_32x32.mat'
    if isinstance(content, dict):
        savemat(str(path), content)
    elif content is not None:
        path.write_bytes(content)
    assert main([str(tmp_path / 'x'), str(tmp_path / 'files'), '--dataset', 'svhn']) == 1
    error = capsys.readouterr().err
    assert message in error and error.count('\n') == 1
