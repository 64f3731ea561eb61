"""Ray Data on a local cluster of two workers: the local engine's store, also if a worker is killed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from support.extraction import SIDE, draw_many, tiny_vision

ray = pytest.importorskip("ray", reason="ray is not installed (pip install 'headword[scale]')")

from headword.errors import HeadwordError  # noqa: E402
from headword.extract import extract_features, ray_engine  # noqa: E402
from headword.extract.vectors import read_vectors  # noqa: E402

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]


def squashed(image: Image.Image) -> torch.Tensor:
    """A transform without a library, so that workers start sooner."""
    return torch.from_numpy(np.array(image.resize((SIDE, SIDE)))).permute(2, 0, 1) / 255


def load():
    """What a worker calls; it leaves its process's number, to be killed by."""
    Path(os.environ["PIDS"], str(os.getpid())).touch()
    return tiny_vision(squashed)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    pids = tmp_path_factory.mktemp("pids")
    here, source = Path(__file__).parents[1], Path(ray_engine.__file__).parents[2]
    with pytest.MonkeyPatch.context() as patch:  # what Ray starts inherits it
        patch.setenv("PYTHONPATH", os.pathsep.join([str(here), str(source)]))
        patch.setenv("PIDS", str(pids))
        ray.init(
            num_cpus=3,
            object_store_memory=100_000_000,
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
        )
        yield pids
        ray.shutdown()


@pytest.fixture(scope="module")
def stores(cluster, tmp_path_factory):
    root = tmp_path_factory.mktemp("ray")
    images = draw_many(root / "images", 64)
    (images / "0007.jpg").write_bytes(b"broken")
    vision = tiny_vision(squashed)
    extract_features(vision, images, root / "local")
    killed: list[int] = []

    def kill(_done: int, _total: int) -> None:
        """Once rows have come, kill one of the two workers."""
        if not killed:
            killed.append(int(next(cluster.iterdir()).name))
            os.kill(killed[0], signal.SIGKILL)

    done = extract_features(
        vision,
        f"file://{images}",
        root / "ray",
        engine="ray",
        workers=2,
        batch_size=4,
        loader=load,
        progress=kill,
    )
    return root, done, killed


def test_ray_equals_local_by_id_though_a_worker_was_killed(stores):
    root, done, killed = stores
    assert killed
    assert (done.rows, done.ok, done.unreadable) == (64, 63, 1)
    local, remote = read_vectors(root / "local"), read_vectors(root / "ray")
    assert sorted(remote.ids) == sorted(local.ids)  # none lost, none twice
    order = [remote.ids.index(name) for name in local.ids]
    torch.testing.assert_close(remote.values[order], local.values, rtol=1e-4, atol=1e-5)


def test_ray_goes_on_with_a_store(stores):
    root, _, _ = stores
    done = extract_features(
        tiny_vision(squashed), root / "images", root / "ray", engine="ray", workers=2, loader=load
    )
    assert (done.resumed, done.rows) == (64, 64)


def test_what_ray_cannot_do(stores):
    root, _, _ = stores
    with pytest.raises(HeadwordError, match="give loader="):
        extract_features(tiny_vision(squashed), root / "images", root / "x", engine="ray")
