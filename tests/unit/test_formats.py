"""The readers of `branchynet.data.formats`: round trips, oracles, and files made to do harm."""

import gzip
import io
import lzma
import os
import pickle
import pickletools
import tarfile
import tracemalloc
import warnings
import zlib

import numpy as np
import pytest
from dataset_files import PACK, python_batch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from branchynet.data import formats
from branchynet.errors import DamagedData, InvalidInput

ARRAYS = npst.arrays(np.uint8, npst.array_shapes(max_dims=4, min_side=0, max_side=6))
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 3072), dtype=np.uint8)
LABELS = [3, 0, 9]
BATCH = python_batch(PIXELS.tobytes(), LABELS)


class TestPackedFiles:
    @pytest.mark.parametrize("suffix", PACK)
    @pytest.mark.parametrize("content", [b"", b"x", b"words " * 1000])
    def test_reads_what_was_written(self, tmp_path, suffix, content):
        path = tmp_path / f"file{suffix}"
        path.write_bytes(PACK[suffix](content))
        assert formats.read_file(path, limit=len(content)) == content

    @pytest.mark.parametrize("suffix", PACK)
    def test_refuses_one_byte_over_the_limit(self, tmp_path, suffix):
        path = tmp_path / f"file{suffix}"
        path.write_bytes(PACK[suffix](bytes(1001)))
        with pytest.raises(DamagedData, match=r"file.*more than the 1,000 bytes"):
            formats.read_file(path, limit=1000)

    @pytest.mark.parametrize("suffix", [".gz", ".xz"])
    def test_a_bomb_is_not_unpacked_past_the_limit(self, suffix):
        bomb = PACK[suffix](bytes(64 * 2**20))
        tracemalloc.start()
        try:
            with pytest.raises(DamagedData, match="more than"):
                formats.unpack(bomb, suffix, limit=2**20, name="bomb")
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        # The limit and xz's dictionary of 8 MiB, not the 64 MiB inside.
        assert peak < 12 * 2**20

    def test_a_huge_plain_file_is_not_read_to_its_end(self, tmp_path):
        path = tmp_path / "sparse"
        with path.open("wb") as file:
            file.truncate(2**40)
        with pytest.raises(DamagedData, match="more than"):
            formats.read_file(path, limit=1000)

    def test_refuses_an_xz_header_that_asks_for_four_gigabytes(self):
        packed = bytearray(lzma.compress(b"small"))
        header = slice(12, 12 + 4 * (packed[12] + 1))
        assert packed[14] == 0x21, "the LZMA2 filter"
        packed[16] = 40  # a dictionary of 4 GiB - 1
        packed[header.stop - 4 : header.stop] = zlib.crc32(packed[12 : header.stop - 4]).to_bytes(4, "little")
        with pytest.raises(DamagedData, match="Memory usage limit"):
            formats.unpack(bytes(packed), ".xz", limit=1000, name="greedy.xz")

    @pytest.mark.parametrize("suffix", [".gz", ".xz"])
    def test_refuses_every_truncation(self, suffix):
        packed = PACK[suffix](b"some words")
        for length in range(len(packed)):
            with pytest.raises(DamagedData, match=r"short.*truncated"):
                formats.unpack(packed[:length], suffix, limit=1000, name="short")

    @pytest.mark.parametrize("suffix", [".gz", ".xz"])
    def test_refuses_bytes_after_the_stream(self, suffix):
        with pytest.raises(DamagedData, match="has 5 bytes after the end"):
            formats.unpack(PACK[suffix](b"words") + b"extra", suffix, limit=1000, name="long")

    @pytest.mark.parametrize("suffix", [".gz", ".xz"])
    def test_refuses_another_format_and_a_flipped_bit(self, suffix):
        packed = bytearray(PACK[suffix](b"some words"))
        packed[-6] ^= 1
        for data in (b"not packed at all", bytes(packed)):
            with pytest.raises(DamagedData, match="odd is not a sound"):
                formats.unpack(data, suffix, limit=1000, name="odd")


class TestTar:
    def make(self, path, *entries):
        with tarfile.open(path, "w:gz") as tar:
            for info, content in entries:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        return path

    def test_reads_the_named_members_only(self, tmp_path):
        path = self.make(
            tmp_path / "a.tar.gz",
            (tarfile.TarInfo("folder/one"), b"1"),
            (tarfile.TarInfo("../../two"), b"22"),
            (tarfile.TarInfo("folder/three"), b"333"),
        )
        read = formats.read_tar_members(path, ["folder/three", "folder/one"], limit=2**20)
        assert read == {"folder/three": b"333", "folder/one": b"1"}
        assert [file.name for file in tmp_path.iterdir()] == ["a.tar.gz"], "nothing is extracted"

    def test_refuses_a_missing_member(self, tmp_path):
        path = self.make(tmp_path / "a.tar.gz", (tarfile.TarInfo("one"), b"1"))
        with pytest.raises(DamagedData, match="no member 'two'"):
            formats.read_tar_members(path, ["two"], limit=2**20)

    @pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
    def test_refuses_what_is_not_a_regular_file(self, tmp_path, kind):
        info = tarfile.TarInfo("one")
        info.type, info.linkname = kind, "target"
        path = self.make(tmp_path / "a.tar.gz", (tarfile.TarInfo("target"), b"secret"), (info, b""))
        with pytest.raises(DamagedData, match="'one' is not a regular file"):
            formats.read_tar_members(path, ["one"], limit=2**20)

    def test_refuses_a_sparse_member_that_claims_a_terabyte(self, tmp_path):
        info = tarfile.TarInfo("one")
        info.pax_headers = {"GNU.sparse.size": str(2**40), "GNU.sparse.map": f"0,1,{2**40},0"}
        path = tmp_path / "a.tar.gz"
        with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as tar:
            info.size = 1
            tar.addfile(info, io.BytesIO(b"1"))
        with pytest.raises(DamagedData, match="not a regular file"):
            formats.read_tar_members(path, ["one"], limit=2**20)

    def test_refuses_what_is_not_a_tar(self, tmp_path):
        path = tmp_path / "a.tar.gz"
        path.write_bytes(gzip.compress(b"words " * 1000))
        with pytest.raises(DamagedData, match="not a sound tar"):
            formats.read_tar_members(path, ["one"], limit=2**20)

    def test_refuses_an_archive_over_the_limit(self, tmp_path):
        path = self.make(tmp_path / "a.tar.gz", (tarfile.TarInfo("one"), bytes(2**20)))
        with pytest.raises(DamagedData, match="more than the 65,536 bytes"):
            formats.read_tar_members(path, ["one"], limit=2**16)


class TestIdx:
    @given(ARRAYS)
    def test_round_trip(self, array):
        read = formats.parse_idx(formats.write_idx(array), "made")
        assert read.dtype == np.uint8
        assert read.shape == array.shape
        assert np.array_equal(read, array)
        assert read.flags.writeable
        assert read.flags.c_contiguous

    def test_the_bytes_are_those_of_the_format(self):
        data = formats.write_idx(np.arange(6, dtype=np.uint8).reshape(1, 2, 3))
        assert data == b"\0\0\x08\3\0\0\0\1\0\0\0\2\0\0\0\3\0\1\2\3\4\5"

    @given(ARRAYS.filter(lambda array: array.size > 0), st.data())
    def test_refuses_every_truncation(self, array, data):
        whole = formats.write_idx(array)
        short = whole[: data.draw(st.integers(0, len(whole) - 1))]
        with pytest.raises(DamagedData, match=r"short"):
            formats.parse_idx(short, "short")

    @given(ARRAYS, st.binary(min_size=1, max_size=9))
    def test_refuses_trailing_bytes(self, array, extra):
        with pytest.raises(DamagedData, match=f"long has trailing bytes: .* there are {array.size + len(extra):,}"):
            formats.parse_idx(formats.write_idx(array) + extra, "long")

    @pytest.mark.parametrize(
        "start",
        [b"", b"\0\0\x08", b"\0\0\x08\0", b"\0\0\x09\1", b"\0\0\x0d\1", b"\x1f\x8b\x08\1", b"\0\1\x08\1"],
    )
    def test_refuses_another_magic_number(self, start):
        data = start + (b"\0\0\0\1x" if len(start) == 4 else b"")
        with pytest.raises(DamagedData, match=f"odd is not an IDX .* starts with '{start.hex(' ')}'"):
            formats.parse_idx(data, "odd")

    @pytest.mark.parametrize("rank", [32, 33, 65, 255])
    def test_refuses_more_dimensions_than_an_array_can_have(self, rank):
        data = bytes((0, 0, 8, rank)) + (1).to_bytes(4, "big") * rank + b"x"
        if rank == 32:
            assert formats.parse_idx(data, "deep").shape == (1,) * 32
            return
        with pytest.raises(DamagedData, match=f"deep has {rank} dimensions; at most 32 are read"):
            formats.parse_idx(data, "deep")

    def test_sizes_do_not_wrap_around(self):
        with pytest.raises(DamagedData, match="truncated"):
            formats.parse_idx(b"\0\0\x08\4" + b"\x80\0\0\0" * 4, "vast")

    @given(st.binary(max_size=64))
    def test_any_bytes_are_an_array_or_damaged(self, data):
        try:
            array = formats.parse_idx(data, "any")
        except DamagedData:
            return
        assert formats.write_idx(array) == data

    @pytest.mark.parametrize("array", [np.zeros(3, np.int64), np.zeros((), np.uint8)])
    def test_writes_only_bytes_with_a_rank(self, array):
        with pytest.raises(InvalidInput, match=str(array.dtype)):
            formats.write_idx(array)


class TestCifarBinary:
    def test_round_trip(self):
        data = np.concatenate([np.array(LABELS, np.uint8)[:, None], PIXELS], axis=1).tobytes()
        images, labels = formats.parse_cifar_binary(data, "made")
        assert images.dtype == np.uint8
        assert labels.dtype == np.int64
        assert labels.tolist() == LABELS
        assert np.array_equal(images, PIXELS.reshape(3, 3, 32, 32))
        assert images.flags.writeable

    @pytest.mark.parametrize("size", [0, 1, 3072, 3074, 2 * 3073 - 1])
    def test_refuses_a_part_of_a_record(self, size):
        with pytest.raises(DamagedData, match=f"has {size:,} bytes"):
            formats.parse_cifar_binary(bytes(size), "part")

    def test_refuses_a_label_over_nine(self):
        with pytest.raises(DamagedData, match="label 10, outside 0 to 9"):
            formats.parse_cifar_binary(b"\x0a" + bytes(3072), "wrong")


class TestCifarPickle:
    def test_reads_what_the_unpickler_reads(self):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy.core is an old name: that is what is tested
            oracle = pickle.loads(BATCH, encoding="bytes")
        images, labels = formats.parse_cifar_pickle(BATCH, "made")
        assert labels.tolist() == oracle[b"labels"] == LABELS
        assert np.array_equal(images, oracle[b"data"].reshape(3, 3, 32, 32))
        assert images.dtype == np.uint8
        assert labels.dtype == np.int64
        assert images.flags.writeable

    def test_planes_are_red_green_blue(self):
        plane = np.repeat(np.array([1, 2, 3], np.uint8), 1024)
        images, _ = formats.parse_cifar_pickle(python_batch(plane.tobytes(), [0]), "made")
        assert images[0, :, 0, 0].tolist() == [1, 2, 3]

    @pytest.mark.parametrize(
        "bad",
        [
            "os system",
            "builtins eval",
            "__builtin__ eval",
            "numpy load",
            "numpy.lib.npyio load",
            "numpy.core.multiarray scalar",
            "numpy.core.multiarray fromfile",
            "numpy memmap",
            "copyreg _reconstructor",
            "_codecs encode",
        ],
    )
    @pytest.mark.parametrize("instead_of", ["numpy.core.multiarray _reconstruct", "numpy ndarray", "numpy dtype"])
    def test_refuses_every_other_global(self, instead_of, bad):
        batch = BATCH.replace(as_global(instead_of), as_global(bad))
        with pytest.raises(DamagedData, match=f"global {bad.replace(' ', '.')!r}"):
            formats.parse_cifar_pickle(batch, "evil")

    @pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
    def test_nothing_is_run(self, tmp_path, protocol):
        canary = tmp_path / "canary"

        class Evil:
            def __reduce__(self):
                return os.mkdir, (str(canary),)

        evil = pickle.dumps({b"labels": LABELS, b"data": Evil()}, protocol=protocol)
        with pytest.raises(DamagedData):
            formats.parse_cifar_pickle(evil, "evil")
        assert not canary.exists()
        pickle.loads(evil)
        assert canary.exists(), "this pickle does harm to whoever loads it"

    @pytest.mark.parametrize("kind", [b"O8", b"V1", b"u2", b"i1", b"S1"])
    def test_refuses_every_other_element_type(self, kind):
        batch = BATCH.replace(b"U\x02u1", b"U\x02" + kind)
        with pytest.raises(DamagedData, match=f"must be u1 .* not {kind!r}"):
            formats.parse_cifar_pickle(batch, "odd")

    @pytest.mark.parametrize(
        ("old", "new", "why"),
        [
            (b"M\x00\x0c\x86", b"M\x01\x0c\x86", "shape \\(3, 3073\\)"),
            (b"M\x03\x00M", b"M\x04\x00M", "shape \\(4, 3072\\)"),
            (b"M\x03\x00M", b"M\x00\x00M", "shape \\(0, 3072\\)"),
            (b"M\x03\x00M\x00\x0c\x86", b"M\x03\x00\x85", "not a plain numpy array"),
            (b"tb\x89T", b"tbK\x01T", "not a plain numpy array"),
            (b"U\x04data", b"U\x04date", "without the CIFAR-10 keys"),
            (b"U\x06labels", b"U\x06lables", "without the CIFAR-10 keys"),
            (b"K\x09eU", b"K\x0aeU", "label 10, outside 0 to 9"),
            (b"K\x09eU", b"J\xff\xff\xff\xffeU", "label -1, outside 0 to 9"),
            (b"K\x09eU", b"NeU", "not a list of whole numbers"),
            (b"K\x09eU", b"\x89eU", "not a list of whole numbers"),
            (b"K\x09eU", b"eU", "3 images and 2 labels"),
            (b"K\x09eU", b"G" + bytes(8) + b"eU", "opcode BINFLOAT"),
            (b"K\x09eU", b"h\x02eU", "opcode BINGET"),
            (b"\x80\x02}q\x01(", b"\x80\x02]q\x01(", "sets items of something that is not a dict"),
            (b"]q\x03(", b"}q\x03(", "not a list"),
            (b"U\x06labels", b"K\x06", "a key that is not text"),
            (b"tbu.", b"tu.", "a key that is not text"),
            (b"tbu.", b"tb.", "values to unpack"),
            (b"cnumpy\nndarray\nq\x06K\x00\x85U\x01b\x87R", b"K\x00K\x00\x86R", "not a plain numpy array"),
            (b"cnumpy\nndarray\nq\x06", b"cnumpy\ndtype\nq\x06", "not a plain numpy array"),
            (b"cnumpy\nndarray\nq\x06K\x00\x85", b"K\x00K\x00\x85", "not a plain numpy array"),
            (
                b"cnumpy.core.multiarray\n_reconstruct\nq\x05",
                b"K\x00",
                "calls something that is not a global",
            ),
            (b"tbu.", b"tbbu.", "sets the state of something that is not an object"),
            (b"tbu.", b"tbu", "is not an original CIFAR-10 batch"),
            (b"tbu.", b"tbu.more", "4 bytes after the end of its pickle"),
        ],
    )
    def test_refuses_what_is_not_quite_a_batch(self, old, new, why):
        assert BATCH.count(old) == 1
        with pytest.raises(DamagedData, match=f"odd.*{why}"):
            formats.parse_cifar_pickle(BATCH.replace(old, new), "odd")

    @pytest.mark.parametrize("data", [b"", b".", b"\x80\x02N.", b"\x80\x02e.", b"\x80\x02R.", b"\x80\x02b."])
    def test_refuses_stubs(self, data):
        with pytest.raises(DamagedData, match="stub"):
            formats.parse_cifar_pickle(data, "stub")

    def test_a_memo_of_two_billion_places_is_not_made(self):
        # The C unpickler makes room for every number below: 32 GiB for these 5 bytes.
        batch = BATCH.replace(b"q\x03", b"r\xff\xff\xff\x7f")
        assert formats.parse_cifar_pickle(batch, "greedy")[1].tolist() == LABELS

    def test_refuses_a_flood_of_opcodes(self, monkeypatch):
        monkeypatch.setattr("branchynet.data.cifar_pickle._PICKLE_OPCODES", 1000)
        with pytest.raises(DamagedData, match="more than 1,000 opcodes"):
            formats.parse_cifar_pickle(b"\x80\x02" + b"]" * 1000 + b".", "flood")

    @settings(suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(st.tuples(st.integers(0, 240), st.integers(0, 255)), min_size=1, max_size=4))
    @example([(66, 92)])  # an escape that Python warns of
    def test_any_change_gives_a_batch_or_damaged(self, changes):
        batch = bytearray(BATCH)
        for place, value in changes:
            batch[place] = value
        try:
            images, labels = formats.parse_cifar_pickle(bytes(batch), "any")
        except DamagedData:
            return
        assert images.shape == (len(labels), 3, 32, 32)
        assert set(labels.tolist()) <= set(range(10))

    @settings(suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(st.sampled_from(pickletools.opcodes), max_size=12), st.binary(max_size=12))
    def test_any_opcodes_are_damaged(self, opcodes, tail):
        data = b"\x80\x02" + b"".join(opcode.code.encode("latin-1") for opcode in opcodes) + tail
        with pytest.raises(DamagedData):
            formats.parse_cifar_pickle(data, "any")


def as_global(name):
    """The GLOBAL opcode for "module name"."""
    module, attribute = name.split(" ")
    return f"c{module}\n{attribute}\n".encode()
