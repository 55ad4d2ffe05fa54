"""What hdf5.rs asks of h5py. Numbers pass as flat arrays of float64, which holds every float, integer and bool of a dataset."""

import h5py
import numpy as np

# Bytes that HDF5 may keep of what arrays and groups are. Nothing is read twice, and its own bound of 32 MB lets it take 300 MB.
CACHE = 1 << 20


def open_file(path, mode):
    if mode != "r":
        return h5py.File(path, mode)
    # Reading needs no lock, and file systems without locks refuse one.
    file = h5py.File(path, mode, locking=False)
    cache = file.id.get_mdc_config()
    cache.set_initial_size = True
    cache.initial_size = cache.min_size = cache.max_size = CACHE
    file.id.set_mdc_config(cache)
    return file


def kind(dtype):
    names = {"b": "bool", "i": "int", "u": "int", "f": "float"}
    return names.get(dtype.kind, str(dtype))


def arrays(file, group):
    """Name, shape, kind and bytes per number of every array in a group and the groups in it."""
    found = []

    def visit(name, item):
        if isinstance(item, h5py.Dataset):
            found.append((name, list(item.shape or ()), kind(item.dtype), item.dtype.itemsize))

    file[group].visititems(visit)
    return found


def keys(file):
    return list(file.keys())


def flat(array):
    return np.ascontiguousarray(array, dtype=np.float64).reshape(-1)


def rows(file, name, start, stop):
    return flat(file[name][start:stop])


def numbers(dtype):
    return dtype.kind in "biuf"


def gather(file, names):
    """Several whole arrays of one width behind one another, and the shape of each; a KeyError names one that is missing."""
    parts, shapes = [], []
    for name in names:
        try:
            array = h5py.h5d.open(file.id, name.encode())
        except (KeyError, TypeError, OSError):
            raise KeyError(name) from None
        if not numbers(array.dtype):
            raise TypeError(f"{name} holds {array.dtype}")
        values = np.empty(array.shape, array.dtype)
        array.read(h5py.h5s.ALL, h5py.h5s.ALL, values)
        shapes.append(list(array.shape))
        parts.append(values.reshape(-1))
    return np.concatenate(parts).astype(np.float64, copy=False), shapes


def attributes(file, group):
    """Numbers and texts among the attributes of a group."""
    found = []
    for name, value in file[group].attrs.items():
        value = value.decode() if isinstance(value, bytes) else value
        if isinstance(value, str):
            found.append((name, value, None))
        elif np.ndim(value) == 0 and np.asarray(value).dtype.kind in "biuf":
            found.append((name, None, float(value)))
    return found


def create(file, name, dtype, width, chunk, compressed):
    """An empty array that grows by rows; width 0 is one number a row."""
    row = (width,) if width else ()
    file.create_dataset(
        name, (0, *row), maxshape=(None, *row), dtype=dtype, chunks=(chunk, *row), compression="gzip" if compressed else None
    )


def append(file, name, data):
    array = file[name]
    data = data.reshape(-1, *array.shape[1:]).astype(array.dtype)
    start = array.shape[0]
    array.resize(start + len(data), axis=0)
    array[start:] = data


def set_number(file, group, name, value, dtype):
    file.require_group(group).attrs[name] = np.dtype(dtype).type(value)


def set_text(file, group, name, value):
    file.require_group(group).attrs[name] = value


def scalar_text(file, name, value):
    file[name] = np.bytes_(value)


def text(file, name):
    value = file[name][()]
    value = value.decode() if isinstance(value, bytes) else value
    return value if isinstance(value, str) else None


def require_group(file, name):
    file.require_group(name)
