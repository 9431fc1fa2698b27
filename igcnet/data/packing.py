"""Packing: from planned lists of images to record files, with every bad image reported."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from igcnet.data.encoding import Encoding, Source
from igcnet.data.lists import Item
from igcnet.data.workers import EncoderPool, usable_cores
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
    fetch : function
        Gives the source of an item: path, encoded bytes or array.
    source : dict
        For the manifest: where the images come from.
    with_list : bool
        False when ``<prefix>.lst`` is what the items were read from.
    """

    prefix: str
    items: Sequence[Item]
    fetch: Callable[[Item], Source]
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
        pool = stack.enter_context(EncoderPool(encoding, workers or usable_cores()))
        for plan in plans:
            writer = stack.enter_context(record_writer(
                plan.prefix, classes, {'source': plan.source, 'options': options}, plan.with_list))
            skipped = []
            with Progress(len(plan.items), 'packing ' + Path(plan.prefix).name,
                          enabled=show_progress) as progress:
                for items, outcomes in pool.run(plan.items, plan.fetch):
                    good = [pair for pair in zip(items, outcomes) if isinstance(pair[1], bytes)]
                    skipped += [(item.name, outcome) for item, outcome in zip(items, outcomes)
                                if isinstance(outcome, str)]
                    writer.add_framed([item for item, _ in good], [record for _, record in good])
                    progress.advance(len(items))
            _write_report(plan.report, skipped)
            writer.skipped = len(skipped)
            writer.finish()
            packed.append(Packed(plan, writer.records, len(skipped)))
        _refuse_bad(packed, max_bad)
    return packed


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
