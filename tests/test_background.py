"""Jobs ahead in threads: order, bounds, errors, prompt and complete ending."""

import subprocess
import sys
import threading
import time
from functools import partial

import pytest

from igcnet.data.background import THREAD_NAME, in_background


def reader_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith(THREAD_NAME)]


def squares(count, begun, parts=3):
    """Jobs whose result is a list that the parts fill with n*n."""
    for number in range(count):
        begun.append(number)
        result = [None] * parts

        def fill(place, result=result, number=number):
            time.sleep(0.001 * ((number + place) % 3))
            result[place] = number * number
        yield result, [partial(fill, place) for place in range(parts)]


@pytest.mark.parametrize('threads', [0, 1, 4])
def test_results_are_complete_and_in_order(threads):
    results = list(in_background(squares(20, []), threads))
    assert results == [[n * n] * 3 for n in range(20)]
    assert reader_threads() == []


def test_only_so_many_jobs_are_begun_ahead():
    begun = []
    results = in_background(squares(100, begun), 2, ahead=3)
    assert begun == []
    for taken in range(1, 6):
        next(results)
        assert len(begun) == taken + 3
    results.close()


def test_closing_early_leaves_no_thread_and_begins_nothing_more():
    ran = []

    def slow(number):
        time.sleep(0.02)
        ran.append(number)
    results = in_background(((None, [partial(slow, n) for _ in range(50)]) for n in range(9)), 2)
    next(results)
    results.close()
    assert reader_threads() == []
    done = len(ran)
    assert done < 60
    time.sleep(0.1)
    assert len(ran) == done


def test_errors_arrive_at_their_place():
    def fail():
        raise KeyError('part 4')
    jobs = ((n, [fail if n == 4 else (lambda: None)]) for n in range(9))
    results = in_background(jobs, 3)
    taken = []
    with pytest.raises(KeyError, match='part 4'):
        for result in results:
            taken.append(result)
    assert taken == [0, 1, 2, 3]
    assert reader_threads() == []


@pytest.mark.parametrize('ending', [
    'raise KeyboardInterrupt', 'sys.exit(0)', 'import os, signal; os.kill(os.getpid(), 2)'])
def test_a_process_that_ends_in_the_middle_does_not_hang(ending):
    program = '\n'.join([
        'import sys, time',
        'from igcnet.data.background import in_background',
        'part = lambda: time.sleep(0.1)',
        'results = in_background(((n, [part] * (200 if n else 2)) for n in range(99)), 2)',
        'next(results)', ending])
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, '-c', program], timeout=60, capture_output=True)
    # Two jobs of 200 parts of 0.1 s are waiting; in two threads they would take 20 s.
    assert time.perf_counter() - begin < 15
    assert (done.returncode == 0) == ('exit(0)' in ending)
