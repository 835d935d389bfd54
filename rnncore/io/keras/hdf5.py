"""HDF5 files read with distrust: plain links, plain datasets, no more bytes than the file has."""
# SPDX-License-Identifier: Apache-2.0

import contextlib
import math

import numpy as np

SIGNATURE = b"\x89HDF\r\n\x1a\n"

DEPTH_MAX = 64
"""Parts of a path at most."""


@contextlib.contextmanager
def opened(file, size):
    """Yield the root `Group` of a path or file object of `size` bytes.

    Whatever the HDF5 library raises about what it finds becomes a ValueError.
    """
    try:
        import h5py
    except ImportError:
        raise ImportError(
            'reading files of Keras needs h5py: pip install "rnncore[keras]"'
        ) from None
    try:
        with h5py.File(file, "r") as opened_file:
            yield Group(opened_file, _Budget(size))
    except (OSError, RuntimeError, KeyError, TypeError, OverflowError, MemoryError) as error:
        raise ValueError(f"the HDF5 file is damaged: {error!s:.200}") from None


class _Budget:
    """Bytes that may be read: what overlaps or is made up needs more than the file has."""

    def __init__(self, size):
        self.size = self.left = size

    def spend(self, count, name):
        if count > self.left:
            raise ValueError(f"{name:.80} needs {count} bytes, the file has {self.left} left")
        self.left -= count


class Group:
    """A group, or the file; names are followed by hard links only."""

    def __init__(self, group, budget):
        self._group = group
        self._budget = budget

    def get(self, path):
        """The object at a path, or None."""
        import h5py

        parts = path.split("/")
        if len(parts) > DEPTH_MAX:
            raise ValueError(f"the path {path!r:.80} has {len(parts)} parts")
        found = self._group
        for part in parts:
            if not isinstance(found, h5py.Group) or not part or part not in found:
                link = isinstance(found, h5py.Group) and part and found.get(part, getlink=True)
                if not link or isinstance(link, h5py.HardLink):
                    return None
            else:
                link = found.get(part, getlink=True)
            if not isinstance(link, h5py.HardLink):
                raise ValueError(f"{path!r:.80} is a {type(link).__name__}, expected no link")
            found = found[part]
        return found

    def group(self, path):
        """The group at a path."""
        import h5py

        found = self.get(path)
        if not isinstance(found, h5py.Group):
            raise ValueError(f"there is no group {path!r:.80}")
        return Group(found, self._budget)

    def array(self, path):
        """The numbers at a path, as an array of float32 or float64."""
        import h5py

        found = self.get(path)
        if not isinstance(found, h5py.Dataset):
            raise ValueError(f"there is no dataset {path!r:.80}")
        dtype, shape = found.dtype, found.shape
        if dtype.kind != "f" or dtype.itemsize not in (2, 4, 8):
            raise ValueError(
                f"{path!r:.80} has dtype {dtype}, expected float16, float32 or float64"
            )
        if shape is None:
            raise ValueError(f"{path!r:.80} holds nothing")
        layout = found.id.get_create_plist()
        if layout.get_nfilters():
            raise ValueError(f"{path!r:.80} is compressed or filtered, expected plain numbers")
        if layout.get_layout() == h5py.h5d.VIRTUAL or layout.get_external_count():
            raise ValueError(f"{path!r:.80} lies in another file, expected its numbers in this one")
        count = math.prod(shape) * dtype.itemsize
        if found.id.get_storage_size() < count:
            raise ValueError(f"{path!r:.80} needs {count} bytes, fewer are stored")
        self._budget.spend(count, path)
        array = found[()]
        return np.ascontiguousarray(array, np.float64 if dtype.itemsize == 8 else np.float32)

    def datasets(self):
        """Paths of all datasets below, each object once."""
        import h5py

        found = []
        self._group.visititems(
            lambda name, thing: found.append(name) if isinstance(thing, h5py.Dataset) else None
        )
        return found

    def _attribute(self, name):
        """The attribute of this name, after a look at its size, or None."""
        if name not in self._group.attrs:
            return None
        about = self._group.attrs.get_id(name)
        if len(about.shape or ()) > 1:
            raise ValueError(f"the attribute {name:.80} has shape {about.shape}")
        self._budget.spend(math.prod(about.shape or ()) * about.dtype.itemsize, name)
        return self._group.attrs[name]

    def text(self, name):
        """An attribute of one text, or None."""
        value = self._attribute(name)
        if value is None:
            return None
        if isinstance(value, np.ndarray) and value.ndim == 0:
            value = value[()]
        if not isinstance(value, (str, bytes)):
            raise ValueError(f"the attribute {name:.80} is {type(value).__name__}, expected text")
        return _decoded(value, name)

    def texts(self, name):
        """An attribute of several texts, which may be cut into name0, name1, ..., or None."""
        value = self._attribute(name)
        if value is None:
            parts = []
            while (part := self._attribute(f"{name}{len(parts)}")) is not None:
                parts.append(np.atleast_1d(part))
            if not parts:
                return None
            value = np.concatenate(parts)
        value = np.atleast_1d(value)
        if value.size == 0:
            return []
        if not all(isinstance(text, (str, bytes)) for text in value):
            raise ValueError(f"the attribute {name:.80} is of {value.dtype}, expected texts")
        return [_decoded(text, name) for text in value]


def _decoded(text, name):
    try:
        return text.decode() if isinstance(text, bytes) else str(text)
    except UnicodeDecodeError:
        raise ValueError(f"the attribute {name:.80} is not UTF-8") from None
