"""Which images of a tree belong to which class and to which part of a data set."""

from __future__ import annotations

import os
import posixpath
import re
from collections import Counter
from typing import Collection, Dict, List, NamedTuple, Tuple

from igcnet.data.lists import Item
from igcnet.data.trees import Folders
from igcnet.errors import DataError

EXTENSIONS = ('.jpeg', '.jpg', '.png')
# Folders that split a data set, and the part each one is.
PART_FOLDERS = {'train': 'train', 'val': 'val', 'valid': 'val', 'validation': 'val',
                'test': 'test'}
_BREAK = re.compile('[\t\r\n]')


class Scan(NamedTuple):
    """What a tree holds.

    Attributes
    ----------
    classes : list of str
        Names by number.
    parts : dict of str to list of Item
        Images by part; a tree of class folders is one part called ''.
    warnings : list of str
        What was left out, one line each.
    """

    classes: List[str]
    parts: Dict[str, List[Item]]
    warnings: List[str]


def scan_tree(folders: Folders, where: str, extensions: Collection[str] = EXTENSIONS,
              recursive: bool = False, is_archive: bool = False,
              split_by_folder: bool = False) -> Scan:
    """Find the classes and images of a tree of class folders.

    Class numbers follow the sorted folder names, keys the order of im2rec's ``--recursive``
    (folder by folder, files sorted). When the tree holds nothing but ``train`` and ``val`` or
    ``test`` folders of class folders, each becomes a part; their classes are numbered by
    ``train``. In an archive, folders that only wrap the rest are passed through.

    Parameters
    ----------
    where : str
        Name of the root, for messages.
    extensions : collection of str
        Lower-case, with the dot.
    is_archive : bool
        The root is an archive.
    recursive : bool
        Every folder with images is a class of its own, named by its relative path; otherwise
        only the folders right below the root are classes.
    split_by_folder : bool
        The folders right below the root are parts, even when there is but one of them or other
        folders without images lie beside them.

    Raises
    ------
    DataError
        No images, images beside class folders, parts with different classes, or a tree that is
        not in parts although it has to be.
    """
    images, left_out = _only_images(folders, extensions)
    if not any(images.values()):
        raise DataError('%s: no images in it (looked for %s%s); --exts names other extensions'
                        % (where, ' '.join(sorted(extensions)), _found_instead(left_out)))
    top = _unwrapped(images) if is_archive else ''
    warnings = []
    if left_out:
        warnings.append('%d files with other extensions were left out%s'
                        % (sum(left_out.values()), _found_instead(left_out)))
    part_folders = _part_folders(images, top)
    if split_by_folder and not part_folders:
        part_folders = _forced_part_folders(images, top, where)
    if not part_folders:
        by_class = _class_folders(images, top, where, recursive, warnings)
        classes = sorted(by_class, key=_walk_order)
        return Scan(classes, {'': _number(by_class, classes)}, warnings)
    by_part = {part: _class_folders(images, folder, posixpath.join(where, folder), recursive,
                                    warnings)
               for part, folder in part_folders.items()}
    classes = sorted(by_part['train'], key=_walk_order)
    for part, by_class in by_part.items():
        unknown = sorted(set(by_class) - set(classes))
        if unknown:
            raise DataError('%s: class folder %s is not in %s; all parts must have the same classes'
                            % (posixpath.join(where, part_folders[part]), unknown[0],
                               part_folders['train']))
        missing = sorted(set(classes) - set(by_class))
        if missing:
            warnings.append('%s has no images of %d classes (%s)'
                            % (part_folders[part], len(missing), ', '.join(missing[:3])))
    return Scan(classes, {part: _number(by_class, classes)
                          for part, by_class in by_part.items()}, warnings)


def scan_flat(folders: Folders, extensions: Collection[str] = EXTENSIONS) -> List[Item]:
    """The images of the root folder itself, all with label 0, as im2rec lists them without
    ``--recursive``; empty when there are images in sub-folders."""
    images, _ = _only_images(folders, extensions)
    if any(names for folder, names in images.items() if folder):
        return []
    return [Item(key, 0.0, name) for key, name in enumerate(images[''])]


def _only_images(folders: Folders, extensions: Collection[str]) -> Tuple[Folders, Counter]:
    """The folders with the sorted names of their images, and the other extensions counted."""
    images, left_out = {}, Counter()
    for folder, names in folders.items():
        images[folder] = chosen = []
        for name in sorted(names):
            extension = os.path.splitext(name)[1].lower()
            if extension in extensions:
                chosen.append(name)
            else:
                left_out[extension or 'no extension'] += 1
        _check_names(folder, chosen)
    return images, left_out


def _check_names(folder: str, names: List[str]) -> None:
    if not names:
        return
    if _BREAK.search('/'.join([folder] + names)):
        raise DataError('%r: its name or that of a file in it has a tab or line break, which '
                        'cannot stand in a list; rename it' % folder)
    try:
        folder.encode('utf-8')
    except UnicodeEncodeError:
        raise DataError('%r: a class folder must have a name in UTF-8; rename it'
                        % folder) from None


def _found_instead(left_out: Counter) -> str:
    shown = ', '.join('%d %s' % (count, extension)
                      for extension, count in left_out.most_common(4))
    return '; found %s' % shown if shown else ''


def _children(images: Folders, folder: str) -> List[str]:
    return sorted(name for name in images if name and posixpath.dirname(name) == folder)


def _unwrapped(images: Folders) -> str:
    """The folder that the tree really starts at: the first that is not an only child without
    images but with sub-folders."""
    top = ''
    while not images[top]:
        children = _children(images, top)
        if len(children) != 1 or images[children[0]]:
            break
        top = children[0]
    return top


def _part_folders(images: Folders, top: str) -> Dict[str, str]:
    """Folder of each part, or nothing when the tree is not split by folders."""
    children = _children(images, top)
    parts = {PART_FOLDERS.get(posixpath.basename(folder)): folder for folder in children}
    split = ('train' in parts and None not in parts and 1 < len(parts) == len(children)
             and not images[top] and not any(images[folder] for folder in children))
    if not split:
        return {}
    return {part: parts[part] for part in ('train', 'val', 'test') if part in parts}


def _forced_part_folders(images: Folders, top: str, where: str) -> Dict[str, str]:
    """As `_part_folders`, but folders without images do not count and train may be alone."""
    rule = ('--split-by-folder needs train, and val or test if there are any, each of class '
            'folders')
    if images[top]:
        raise DataError('%s: %d images lie beside the folders (such as %s); %s'
                        % (where, len(images[top]), images[top][0], rule))
    parts: Dict[str, str] = {}
    for folder in _children(images, top):
        below = (names for name, names in images.items()
                 if name == folder or name.startswith(folder + '/'))
        if not any(below):
            continue
        part = PART_FOLDERS.get(posixpath.basename(folder))
        if part is None:
            raise DataError('%s: the folder %s is no part; %s' % (where, folder, rule))
        if part in parts:
            raise DataError('%s: the folders %s and %s are both the part %s; %s'
                            % (where, parts[part], folder, part, rule))
        parts[part] = folder
    if 'train' not in parts:
        raise DataError('%s: there is no folder train; %s' % (where, rule))
    return {part: parts[part] for part in ('train', 'val', 'test') if part in parts}


def _class_folders(images: Folders, top: str, where: str, recursive: bool,
                   warnings: List[str]) -> Dict[str, List[str]]:
    """Names of the images of each class below `top`, relative to the root of the tree."""
    if images[top]:
        raise DataError('%s: %d images lie beside the class folders (such as %s); put each image '
                        'into the folder of its class' % (where, len(images[top]), images[top][0]))
    start = len(top) + 1 if top else 0
    classes: Dict[str, List[str]] = {}
    deeper = []
    for folder, names in images.items():
        if folder == top or (top and not folder.startswith(top + '/')):
            continue
        name = folder[start:]
        paths = [posixpath.join(folder, base) for base in names]
        if recursive:
            if paths:
                classes[name] = paths
        elif '/' in name:
            deeper += paths
        else:
            classes[name] = paths
    empty = sorted(name for name, paths in classes.items() if not paths)
    for name in empty:
        del classes[name]
    if deeper and not classes:
        raise DataError('%s: no images right in its class folders, but deeper (such as %s); '
                        '--recursive makes each folder with images a class' % (where, min(deeper)))
    if not classes:
        raise DataError('%s: no images in it' % where)
    if empty:
        warnings.append('%s: %d class folders have no images and get no number (%s)'
                        % (where, len(empty), ', '.join(empty[:3])))
    if deeper:
        warnings.append('%s: %d images in deeper folders were left out (such as %s); --recursive '
                        'makes each folder a class' % (where, len(deeper), min(deeper)))
    return classes


def _number(by_class: Dict[str, List[str]], classes: List[str]) -> List[Item]:
    """The items of one part: keys count through, labels are the classes' numbers."""
    labelled = [(float(number), name) for number, class_name in enumerate(classes)
                for name in by_class.get(class_name, ())]
    return [Item(key, label, name) for key, (label, name) in enumerate(labelled)]


def _walk_order(name: str) -> List[str]:
    return name.split('/')
