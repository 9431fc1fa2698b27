"""Progress: a bar on a terminal, few lines elsewhere."""

import pytest

from igcnet.progress import Progress, format_count, format_seconds


class Terminal:
    """A stream that says it is a terminal or not."""

    def __init__(self, is_terminal):
        self.text = ''
        self._is_terminal = is_terminal

    def isatty(self):
        return self._is_terminal

    def write(self, text):
        self.text += text

    def flush(self):
        pass


def test_progress_lines():
    stream = Terminal(False)
    with Progress(1000, 'packing', interval=0.0, stream=stream) as progress:
        progress.advance(250)
        progress.advance(750, 'loss 0.5')
        progress.write('a line')
    first, second, line, last = stream.text.splitlines()
    assert first.startswith('packing: 250 of 1,000 images, ') and first.endswith(' left')
    assert second.startswith('packing: 1,000 of 1,000') and second.endswith('0 s left, loss 0.5')
    assert line == 'a line' and last.startswith('packing: 1,000 images in 0 s, ')


def test_progress_is_quiet_between_lines_and_when_disabled():
    stream = Terminal(False)
    with Progress(1000, 'x', interval=60.0, stream=stream) as progress:
        for _ in range(1000):
            progress.advance()
    assert len(stream.text.splitlines()) == 1
    for terminal in (True, False):
        silent = Terminal(terminal)
        with Progress(2, 'x', interval=0.0, stream=silent, enabled=False) as progress:
            progress.advance(2)
        assert silent.text == ''


def test_progress_bar():
    stream = Terminal(True)
    with Progress(10, 'epoch 1', 'batches', stream=stream) as progress:
        progress.advance(10, 'loss 0.25')
    assert 'epoch 1' in stream.text and '10/10' in stream.text and 'loss 0.25' in stream.text


def test_progress_without_end():
    stream = Terminal(False)
    with pytest.raises(ZeroDivisionError), Progress(10, 'x', stream=stream) as progress:
        progress.advance(1)
        raise ZeroDivisionError
    assert stream.text == ''


def test_formats():
    assert [format_seconds(n) for n in (0.2, 59.6, 185, 3720)] == ['0 s', '1 min 00 s',
                                                                   '3 min 05 s', '1 h 02 min']
    assert [format_count(n) for n in (0, 3, 3.25, 1234567.8)] == ['0', '3', '3.2', '1,234,568']
