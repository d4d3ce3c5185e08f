"""Model files from anywhere: nothing of one is executed, believed unseen, or leads astray."""

from __future__ import annotations

import io
import os
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import main
from fitting.gaussians import MOST_GAUSSIANS, CheckpointError, Gaussians
from imaging.files import MAX_PIXELS, load_target
from settings import Settings
from tests.conftest import smooth_picture

REAL_NAMES = (
    "a", "wood.albedo", "wood albedo (2)", "木目", "emoji 😀", "..", "...", ".hidden", "-rf", "con",
    "a\nb", "ü" * 120, "x" * 255, "file.png", "%s", "'quoted'", "back\\slash",
)  # fmt: skip


def content(count: int = 4, channels: tuple[int, ...] = (3,), **changes: Any) -> dict[str, Any]:
    """What a model file holds."""
    return {
        "format": "splatbook-gaussians-1",
        "xy": torch.rand(count, 2),
        "scale": torch.full((count, 2), 0.3),
        "rot": torch.zeros(count, 1),
        "feat": torch.rand(count, sum(channels)),
        "width": 16,
        "height": 12,
        "settings": Settings.build(input_filename="cat.png").model_dump(),
        "channels": list(channels),
        "names": [f"part {i}" for i in range(len(channels))],
        "step": 3,
        **changes,
    }


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    """Write a model file with some of its content changed."""

    def save(**changes: Any) -> Path:
        torch.save(content(**changes), tmp_path / "m.pt")
        return tmp_path / "m.pt"

    return save


def refused(path: Path, *words: str) -> str:
    with pytest.raises(CheckpointError) as caught:
        Gaussians.load(path)
    message = str(caught.value)
    assert str(path) in message
    for word in words:
        assert word in message, message
    return message


class TestNames:
    @pytest.mark.parametrize("name", REAL_NAMES)
    def test_every_name_that_a_picture_may_have_comes_back(self, saved, name):
        path = saved(channels=(3, 1), names=["a", name])
        assert Gaussians.load(path).names == ("a", name)

    def test_the_names_of_a_real_stack_come_back(self, tmp_path, saved):
        from PIL import Image

        for name in ("wood.albedo.png", "wood albedo.png", "木目.png", "x.png", "x.jpg", "-rf.png"):
            Image.fromarray(smooth_picture(6, 8)).save(tmp_path / name)
        target = load_target(tmp_path)
        path = saved(channels=target.channels, names=list(target.names))
        assert Gaussians.load(path).names == target.names

    @pytest.mark.parametrize(
        "name",
        ["../../x", "/etc/x", "a/b", "a\0b", "x" * 256, "", 7, None, ["a"], "/", "x/../../y"],
    )
    def test_a_name_that_is_no_files_is_refused_before_anything_is_written(
        self, tmp_path, saved, name, capsys
    ):
        path = saved(channels=(3, 1), names=["a", name])
        refused(path, "which is no file's name")
        (tmp_path / "inner").mkdir()
        with pytest.raises(SystemExit) as ended:
            main.cli(["render", str(path), str(tmp_path / "inner" / "out.png")])
        assert ended.value.code == 1
        assert capsys.readouterr().err.startswith("error: ")
        assert sorted(os.listdir(tmp_path)) == ["inner", "m.pt"]
        assert os.listdir(tmp_path / "inner") == []

    def test_there_is_one_name_for_each_picture(self, saved):
        refused(saved(channels=(3, 1), names=["a"]), "names 1 pictures", "channels of 2")


class TestFacts:
    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"width": 10**9, "height": 10**9}, "1000000000×1000000000"),
            ({"width": MAX_PIXELS, "height": 2}, f"at most {MAX_PIXELS} pixels"),
            ({"width": 2**2000}, "its size is 1148130695"),
            ({"width": True}, "its size is True×12"),
            ({"height": 12.0}, "its size is 16×12.0"),
            ({"height": -1}, "its size is 16×-1"),
            ({"step": -1}, "its step is -1"),
            ({"step": True}, "its step is True"),
            ({"step": 1.0}, "its step is 1.0"),
            ({"step": 10**9}, "its step is 1000000000"),
            ({"channels": (), "names": []}, "its channels are ()"),
            ({"channels": [True]}, "its channels are (True,)"),
            ({"channels": [2]}, "its channels are (2,)"),
            ({"names": 3}, "damaged"),
            ({"channels": [3] * 11, "names": ["a"] * 11}, "it has 33 channels, not 1 to 32"),
            ({"names": None}, "damaged"),
            ({"settings": None}, "damaged"),
            ({"settings": {1: 2}}, "damaged"),
            ({"extra": [1]}, "extra is a list"),
        ],
    )
    def test_a_fact_that_cannot_be_is_named(self, saved, changes, words):
        refused(saved(**changes), words)

    @pytest.mark.parametrize("name", [name for name in content() if name != "format"])
    def test_a_fact_that_is_missing_is_named(self, tmp_path, name):
        facts = content()
        del facts[name]
        torch.save(facts, tmp_path / "m.pt")
        refused(tmp_path / "m.pt", name)

    def test_settings_that_name_each_other_over_and_over_are_refused_at_once(self, saved):
        many: Any = "ha"
        for _ in range(40):
            many = [many] * 10
        begun = time.perf_counter()
        message = refused(saved(settings={"input_filename": "a", "gamma": many}), "gamma=[[[[...]")
        assert len(message) < 1000
        assert time.perf_counter() - begun < 5


class TestTensors:
    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"xy": torch.full((4, 2), torch.nan)}, "xy holds values that are no finite numbers"),
            ({"scale": torch.full((4, 2), torch.inf)}, "scale holds values"),
            ({"scale": torch.full((4, 2), torch.nan)}, "scale holds values"),
            ({"xy": torch.zeros(4, 2).to_sparse()}, "m.pt was not loaded: it names"),
            ({"xy": torch.zeros(4, 2, device="meta")}, "m.pt was not loaded: it names"),
            ({"xy": torch.nn.Parameter(torch.zeros(4, 2))}, "m.pt was not loaded: it names"),
            ({"xy": torch.zeros(1, 2).expand(4, 2)}, "a tensor of (4, 2) has only 8 bytes"),
            ({"xy": torch.zeros(1).expand(10**9, 2)}, "has only 4 bytes"),
            ({"extra": {"raw": torch.zeros(1).expand(10**12)}}, "has only 4 bytes"),
            ({"xy": torch.zeros(4)}, "xy is (4,)"),
            ({"xy": torch.tensor(1.0)}, "it has 0 Gaussians"),
            ({"xy": torch.zeros(4, 2).half()}, "float32"),
            ({"xy": torch.zeros(4, 2, dtype=torch.complex64)}, "float32"),
            ({"xy": [[0.0, 0.0]] * 4}, "damaged"),
            ({"count": 0}, "it has 0 Gaussians"),
        ],
    )
    def test_a_tensor_of_another_kind_is_refused(self, saved, changes, words):
        refused(saved(**changes), words)

    def test_a_quantized_tensor_is_refused(self, saved):
        with pytest.warns(UserWarning, match="deprecated"):
            odd = torch.quantize_per_tensor(torch.zeros(4, 2), 0.1, 0, torch.quint8)
        refused(saved(xy=odd), "_rebuild_qtensor")

    def test_more_gaussians_than_a_run_can_have_are_refused(self, saved):
        count = MOST_GAUSSIANS + 1
        refused(saved(xy=torch.zeros(count, 2)), f"it has {count} Gaussians")

    def test_tensors_come_back_dense_and_without_hooks(self, saved):
        turned = torch.rand(2, 4).T  # not contiguous, as torch may well store it
        loaded = Gaussians.load(saved(xy=turned.requires_grad_()))
        assert torch.equal(loaded.xy, turned)
        assert loaded.xy.is_contiguous()
        assert not loaded.xy.requires_grad


class Call:
    """Pickled, it calls a function when it is read."""

    def __init__(self, function: Callable, *arguments: Any):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class TestCode:
    @pytest.mark.parametrize("place", ["xy", "settings", "extra", "names", "new"])
    def test_code_is_not_run_wherever_it_stands(self, tmp_path, saved, place):
        trap = tmp_path / "trap"
        path = saved(**{place: Call(os.mkdir, str(trap))})
        refused(path, "posix.mkdir" if os.name == "posix" else "mkdir", "only data is ever read")
        assert not trap.exists()
        # The trap is one: this is what an ordinary loader does with it.
        torch.load(path, weights_only=False)
        assert trap.is_dir()

    def test_a_call_that_torch_allows_is_not_made_either(self, saved):
        refused(saved(extra=Call(bytearray, 10**13)), "bytearray")

    def test_a_bare_pickle_is_refused(self, tmp_path):
        import pickle

        (tmp_path / "m.pt").write_bytes(pickle.dumps(Call(os.mkdir, str(tmp_path / "trap"))))
        refused(tmp_path / "m.pt", "cut short, or no model file")
        assert os.listdir(tmp_path) == ["m.pt"]


def repacked(path: Path, change: Callable[[dict[str, bytes]], Any], packing: int = 0) -> Path:
    """The same archive with other members."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    change(members)
    with zipfile.ZipFile(path, "w", packing or zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


class TestArchives:
    def test_a_member_that_unpacks_to_gigabytes_is_not_unpacked(self, saved):
        path = repacked(saved(), lambda members: None)
        assert Gaussians.load(path).step == 3  # packed again in the same way, it is a model
        with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
            name = archive.namelist()[0].split("/")[0]
            with archive.open(f"{name}/data/9", "w", force_zip64=True) as member:
                for _ in range(200):
                    member.write(bytes(10**6))
        assert path.stat().st_size < 10**6
        refused(path, "announce", "stored unpacked")

    def test_members_that_share_their_bytes_are_refused(self, saved):
        path = saved()
        with zipfile.ZipFile(path, "a") as archive:
            largest = max(archive.infolist(), key=lambda info: info.file_size)
            for index in range(50):
                twin = zipfile.ZipInfo(f"twin-{index}")
                for name in ("header_offset", "file_size", "compress_size", "CRC"):
                    setattr(twin, name, getattr(largest, name))
                archive.filelist.append(twin)
            archive._didModify = True
        refused(path, "announce")

    @pytest.mark.parametrize("size", ["file_size", "compress_size"])
    def test_a_member_that_claims_gigabytes_is_not_made_room_for(self, saved, size):
        path = saved()
        with zipfile.ZipFile(path, "a") as archive:
            facts = next(i for i in archive.infolist() if i.filename.endswith("data.pkl"))
            setattr(facts, size, 2**31)
            archive._didModify = True
        refused(path, "announce", "stored unpacked")

    def test_facts_of_many_megabytes_are_refused(self, saved):
        refused(saved(names=["x" * 2_000_000]), "data.pkl", "more than 1048576 bytes")

    def test_two_sets_of_facts_are_refused(self, saved):
        def double(members: dict[str, bytes]) -> None:
            members["other/data.pkl"] = next(d for n, d in members.items() if n.endswith(".pkl"))

        refused(repacked(saved(), double), "data.pkl")

    def test_an_empty_archive_is_refused(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "m.pt", "w"):
            pass
        refused(tmp_path / "m.pt", "data.pkl, are missing")

    def test_a_tensor_that_reaches_beyond_its_member_is_refused(self, saved):
        def shorten(members: dict[str, bytes]) -> None:
            name = next(name for name in members if name.endswith("/data/0"))
            members[name] = members[name][:4]

        refused(repacked(saved(), shorten))


class TestPlaces:
    def test_a_folder_is_refused(self, tmp_path):
        refused(tmp_path, "is no plain file")

    def test_a_pipe_is_refused_not_waited_for(self, tmp_path):
        os.mkfifo(tmp_path / "m.pt")
        refused(tmp_path / "m.pt", "is no plain file")

    def test_links_in_a_circle_are_refused(self, tmp_path):
        (tmp_path / "m.pt").symlink_to(tmp_path / "n.pt")
        (tmp_path / "n.pt").symlink_to(tmp_path / "m.pt")
        refused(tmp_path / "m.pt", "cannot be read")

    @pytest.mark.parametrize("name", ["a\0b.pt", "x" * 300 + ".pt"])
    def test_a_name_that_no_file_can_have_is_refused(self, tmp_path, name):
        refused(tmp_path / name, "cannot be read")

    def test_a_link_to_a_model_is_a_model(self, tmp_path, saved):
        (tmp_path / "link.pt").symlink_to(saved())
        assert Gaussians.load(tmp_path / "link.pt").step == 3


class TestDrawing:
    @pytest.mark.parametrize("height", [10**6, 10**9])
    def test_a_picture_too_large_to_be_drawn_is_refused_before_memory_is_spent(
        self, tmp_path, saved, height, capsys
    ):
        with pytest.raises(SystemExit):
            main.cli(["render", str(saved()), str(tmp_path / "a.png"), "--height", str(height)])
        told = capsys.readouterr().err
        assert f"×{height} is too large to be drawn: at most {MAX_PIXELS}" in told

    @pytest.mark.parametrize("value", [0.0, -1.0, 1e-38, 1e-45, 1e30, -1e38, 3e38])
    @pytest.mark.parametrize("name", ["xy", "scale", "rot", "feat"])
    def test_finite_values_of_any_size_are_drawn(self, saved, name, value):
        odd = torch.full_like(content()[name], value)
        picture = Gaussians.load(saved(**{name: odd})).picture()
        assert picture.shape == (3, 12, 16)
        assert 0 <= picture.min() <= picture.max() <= 1


def test_what_save_wrote_comes_back_with_its_extras(tmp_path):
    values = content(channels=(3, 1))
    del values["format"]
    settings = Settings.build(**values.pop("settings"))
    made = Gaussians(**values | {"channels": (3, 1), "names": ("a", "b")}, settings=settings)
    extra = {"raw": made.tensors(), "rates": {"xy": 0.1}, "random": "{}", "moments": {}}
    made.save(tmp_path / "m.pt", **extra)
    loaded = Gaussians.load(tmp_path / "m.pt")
    assert loaded.extra.keys() == extra.keys()
    for name, tensor in made.tensors().items():
        assert torch.equal(getattr(loaded, name), tensor)
        assert torch.equal(loaded.extra["raw"][name], tensor)
    buffer = io.BytesIO()
    torch.save(OrderedDict(loaded.extra), buffer)  # which holds nothing but plain data again
