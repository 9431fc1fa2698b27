"""Packing: from planned lists of images to record files, with every bad image reported."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

from igcnet.data.encoding import Encoding, Source
from igcnet.data.jpeg_batches import sound_jpegs
from igcnet.data.lists import Item
from igcnet.data.processes import usable_cores
from igcnet.data.records import frame, frame_all, pack_record
from igcnet.data.trees import read_file
from igcnet.data.workers import DecoderMessages, Task, WorkerPool, reason_of
from igcnet.data.writing import record_writer
from igcnet.errors import DataError
from igcnet.files import atomic_path
from igcnet.progress import Progress


class Plan(NamedTuple):
    """One data set to write.

    Attributes
    ----------
    prefix : str
        Of the files, see `igcnet.data.records.RecordPaths`.
    items : sequence of Item
        In the order of the records.
    fetch : function or str
        Gives the source of an item: path, encoded bytes or array. Or the folder that the names
        are relative to.
    source : dict
        For the manifest: where the images come from.
    with_list : bool
        False when ``<prefix>.lst`` is what the items were read from.
    """

    prefix: str
    items: Sequence[Item]
    fetch: Union[str, Callable[[Item], Source]]
    source: Dict[str, Any]
    with_list: bool = True

    @property
    def report(self) -> Path:
        """Where the images that could not be packed are listed."""
        return Path(self.prefix + '-skipped.txt')


class Packed(NamedTuple):
    """What became of one plan."""

    plan: Plan
    records: int
    skipped: int


def pack(plans: Sequence[Plan], classes: Optional[List[str]], encoding: Encoding,
         options: Dict[str, Any], workers: Optional[int] = None, max_bad: int = 0,
         show_progress: bool = False) -> List[Packed]:
    """Write the data sets of all plans, or none of them.

    Every image is decoded, also with ``encoding.pass_through``. Images that cannot be packed
    are listed with the reason in ``<prefix>-skipped.txt``.

    Parameters
    ----------
    classes : list of str or None
        Class names by number.
    options : dict
        For the manifest: the options besides those of `encoding`.
    workers : int, optional
        Worker processes; default: all usable cores. The files do not depend on it.
    max_bad : int
        How many images in all may be left out; with more of them nothing is written but the
        reports.

    Raises
    ------
    DataError
        Too many bad images, or a data set would be empty.
    IgcnetError
        The files cannot be written.
    """
    encoding = encoding.check()
    options = dict(options, **encoding._asdict())
    packed = []
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(WorkerPool(workers or usable_cores()))
        for plan in plans:
            writer = stack.enter_context(record_writer(
                plan.prefix, classes, {'source': plan.source, 'options': options}, plan.with_list))
            skipped = []
            with Progress(len(plan.items), 'packing ' + Path(plan.prefix).name,
                          enabled=show_progress) as progress:
                for items, (framed, lengths, bad) in pool.run(
                        plan.items, functools.partial(_prepare, encoding, plan.fetch)):
                    done = len(items)
                    if bad:
                        skipped += [(items[place].name, reason) for place, reason in bad.items()]
                        items = [item for place, item in enumerate(items) if place not in bad]
                    writer.add_framed(items, framed, lengths)
                    progress.advance(done)
            _write_report(plan.report, skipped)
            writer.skipped = len(skipped)
            writer.finish()
            packed.append(Packed(plan, writer.records, len(skipped)))
        _refuse_bad(packed, max_bad)
    return packed


class _Chunk(NamedTuple):
    """Some items as a worker gets them; `sources` is the folder of the images, or has one each."""

    encoding: Encoding
    keys: Sequence[int]
    labels: Sequence[Any]
    names: Sequence[str]
    sources: Union[str, Sequence[Union[Source, DataError]]]


def _prepare(encoding: Encoding, fetch: Union[str, Callable[[Item], Source]],
             items: Sequence[Item]) -> Task:
    keys, labels, names = zip(*items)
    sources: Any = fetch
    if callable(fetch):
        sources = [_fetch_or_problem(fetch, item) for item in items]
    return Task(_encode_chunk, tuple(_Chunk(encoding, keys, labels, names, sources)),
                names[0], names[-1])


def _fetch_or_problem(fetch: Callable[[Item], Source], item: Item) -> Union[Source, DataError]:
    try:
        return fetch(item)
    except DataError as problem:
        return problem


def _encode_chunk(columns) -> Tuple[Tuple[bytes, List[int], Dict[int, str]], int]:
    """In a worker: the framed records joined, their lengths, and reasons by place in the chunk."""
    encoding, keys, labels, names, sources = columns
    if isinstance(sources, str):
        sources = _read_files(sources, names)
    messages = DecoderMessages()
    sound = itertools.repeat(False)
    if encoding.pass_through:
        sources = list(sources)
        sound = sound_jpegs([source if isinstance(source, bytes) else b'' for source in sources],
                            messages.is_silent)
    places, images, bad = [], [], {}
    for place, (name, source, is_sound) in enumerate(zip(names, sources, sound)):
        if is_sound:
            places.append(place)
            images.append(source)
            continue
        try:
            if isinstance(source, DataError):
                raise source
            image = encoding.encode(source, name)
            damage = messages.damage()
            if damage:
                raise DataError(damage)
            places.append(place)
            images.append(image)
        except (DataError, MemoryError) as problem:
            bad[place] = reason_of(problem, name)
    if bad:
        keys, labels = ([column[place] for place in places] for column in (keys, labels))
    if any(isinstance(label, tuple) for label in labels):
        records = [frame(pack_record(*record)) for record in zip(labels, keys, images)]
        framed, lengths = b''.join(records), [len(record) for record in records]
    else:
        framed, lengths = frame_all(labels, keys, images)
    return (framed, lengths, bad), len(framed)


def _read_files(root: str, names: Sequence[str]) -> Iterator[Union[bytes, DataError]]:
    """Content of each file, or the reason why it cannot be read."""
    folder = os.open(root, os.O_RDONLY)
    try:
        for name in names:
            try:
                yield read_file(name, name, folder)
            except DataError as problem:
                yield problem
    finally:
        os.close(folder)


def _write_report(path: Path, skipped: Sequence[Tuple[str, str]]) -> None:
    """One line ``path<TAB>reason`` per skipped image; no file when there are none."""
    if not skipped:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        return
    text = ''.join('%s\t%s\n' % (name, ' '.join(reason.split())) for name, reason in skipped)
    with atomic_path(path) as temporary:
        temporary.write_bytes(text.encode('utf-8', 'surrogateescape'))


def _refuse_bad(packed: Sequence[Packed], max_bad: int) -> None:
    bad = sum(result.skipped for result in packed)
    reports = ', '.join(str(result.plan.report) for result in packed if result.skipped)
    for result in packed:
        if not result.records:
            raise DataError('none of the %d images for %s.rec can be packed (reasons in %s); '
                            'nothing was written'
                            % (result.skipped, result.plan.prefix, result.plan.report))
    if bad > max_bad:
        raise DataError('%d of %d images cannot be packed (reasons in %s) and --max-bad is %d; '
                        'nothing was written; mend or remove them, or go on without them by '
                        '--max-bad %d'
                        % (bad, sum(len(result.plan.items) for result in packed), reports,
                           max_bad, bad))
