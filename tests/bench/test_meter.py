"""What a range is charged with."""

from __future__ import annotations

import time

import pytest
import torch

from talk3d.bench import meter
from talk3d.ops import rollout_conv
from talk3d.profiling import annotate

CPU = torch.device("cpu")


def product(m: int) -> None:
    torch.ones(m, 3) @ torch.ones(3, 5)  # 2 * m * 3 * 5 operations


def test_a_range_is_not_charged_with_what_is_within_it():
    def run() -> None:
        product(1)
        with annotate("unet"):
            product(10)
            with annotate("unet.mid"):
                product(100)
            product(10)
        with annotate("unet.mid"):
            product(1000)

    assert meter.flop(run) == {"other": 30, "unet": 600, "unet.mid": 33000}


def test_seconds_add_up_to_the_whole(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def work(seconds: float) -> None:
        now[0] += seconds

    def run() -> None:
        work(1)
        with annotate("render"):
            work(2)
            with annotate(".fine"):
                work(4)
        work(8)

    assert meter.seconds(run, CPU) == {"other": 9, "render": 2, "render.fine": 4}


def test_an_operator_counts_as_what_it_is_in_torch():
    batch, channels, out, size = 2, 4, 6, 8
    planes = torch.randn(batch, 3, channels, size, size)
    weight = torch.randn(3, out, 3 * channels, 3, 3)

    def run() -> None:
        with annotate("unet.up1"):
            rollout_conv(planes, weight, axes="zy")

    own, thin = size * size, 3 * size  # positions of a plane, and of a profile with its three values across
    assert meter.flop(run)["unet.up1"] == 2 * 9 * channels * out * batch * 3 * (own + 2 * thin)


@pytest.mark.gpu
def test_a_gpu_is_waited_for():
    x = torch.randn(4096, 4096, device="cuda")

    def run() -> None:
        with annotate("sr"):
            for _ in range(20):
                x @ x

    run()
    torch.cuda.synchronize()
    start = time.perf_counter()
    found = meter.seconds(run, torch.device("cuda"))
    assert 0.5 * (time.perf_counter() - start) < found["sr"] < time.perf_counter() - start


def test_attention_counts_on_a_cpu():
    q = torch.ones(2, 3, 8, 4)
    attend = torch.nn.functional.scaled_dot_product_attention
    operations = 2 * (2 * 2 * 3 * 8 * 8 * 4)  # scores, and what they weigh
    assert meter.flop(lambda: attend(q, q, q)) == {"other": operations}
    with torch.inference_mode():
        assert meter.flop(lambda: attend(q, q, q)) == {"other": operations}
