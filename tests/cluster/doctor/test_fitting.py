"""Which GPUs a run fits on: a name too many sells a user a machine on which the run dies of memory."""

from nopsd.cluster.doctor.fitting import ASLEEP, CONTEXT, GPUS, SERVER_OWN, fitting, room_on, shares_devices
from nopsd.cluster.doctor.memory import GIB, Needs
from nopsd.config import load_config

NEEDS = Needs({"student weights": 20 * GIB}, {}, 2**17, 8 * GIB)


def test_the_server_and_the_rank_share_a_gpu():
    """Sums by hand: 80 GiB, of which the server has 40 %."""
    config = load_config(None, ["server.gpu_memory_utilization=0.4", "server.max_model_len=4096"])
    room = room_on(config, NEEDS, 80.0)
    served = int(0.4 * 80 * GIB)
    assert room.left == 80 * GIB - served - 20 * GIB - CONTEXT
    assert room.tokens == (served - 8 * GIB - SERVER_OWN) // 2**17 and room.wanted == 4096 and room.fits
    assert not room_on(config, NEEDS, 36.0).fits  # the rank has no room
    assert not room_on(config, Needs({"student weights": GIB}, {}, 2**17, 32 * GIB), 80.0).fits  # nor the server


def test_a_server_that_sleeps_leaves_a_step_the_gpu():
    """By hand: 20 GiB rest and 30 are a step's; awake the server has 32 of 80. Doctor must not refuse what fits."""
    needs = Needs({"student weights": 20 * GIB, "activations": 25 * GIB, "loss": 5 * GIB}, {}, 2**17, 8 * GIB)
    given = ["server.gpu_memory_utilization=0.4", "server.max_model_len=4096"]
    assert room_on(load_config(None, given), needs, 80.0).left == (80 - 32 - 50) * GIB - CONTEXT
    asleep = load_config(None, [*given, "server.sleep=true"])
    assert needs.resting == 20 * GIB and room_on(asleep, needs, 80.0).left == (80 - 32 - 20) * GIB - CONTEXT
    assert room_on(asleep, needs, 53.0).left == 53 * GIB - ASLEEP - 50 * GIB - CONTEXT, "the step is what is tight"


def test_a_server_elsewhere_takes_nothing():
    config = load_config(None, ["server.url=http://elsewhere:8000"])
    room = room_on(config, NEEDS, 24.0)
    assert not shares_devices(config) and room.tokens is None and room.left == 2 * GIB and room.fits


def test_larger_gpus_hold_what_smaller_ones_do():
    config = load_config(None, ["server.url=http://elsewhere:8000"])
    for size in (15, 30, 60, 120):
        found = fitting(config, Needs({"student weights": size * GIB}, {}, 2**17, GIB))
        assert found == [name for name, gib in GPUS.items() if gib - 2 >= size]
