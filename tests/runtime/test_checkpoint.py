import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import struct
from jax.sharding import NamedSharding, PartitionSpec

from rlhf_jax.errors import InputError
from rlhf_jax.runtime import Checkpoints, make_mesh, run, tree_hash


@struct.dataclass
class State:
    step: Any
    params: Any
    opt_state: Any
    ema: Any
    key: Any


def make_state(seed=0, width=400):
    params = {
        "kernel": jax.random.normal(jax.random.key(seed), (8, width)),
        "scale": jnp.arange(width, dtype=jnp.bfloat16) / 3,
    }
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    return State(jnp.int32(seed), params, optimizer.init(params), None, jax.random.key(seed))


def assert_same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def saved(folder, steps, keep=None):
    """Checkpoints of make_state(step) for each step, on disk."""
    checkpoints = Checkpoints(folder, keep)
    for step in steps:
        checkpoints.save(step, make_state(step), {"position": step})
    checkpoints.close()
    return checkpoints


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_lets_the_reading_end(tmp_path, monkeypatch, number, code, capfd):
    """Orbax reads in threads of its own, which would go on with what is gone."""
    saved(tmp_path / "checkpoints", [1])
    read, ended = ocp.Checkpointer.restore, []

    def interrupted(self, *arguments, **more):
        signal.raise_signal(number)
        found = read(self, *arguments, **more)
        ended.append(found)
        return found

    monkeypatch.setattr(ocp.Checkpointer, "restore", interrupted)
    with pytest.raises(SystemExit) as stopped:
        run(lambda: Checkpoints(tmp_path / "checkpoints", None).restore(make_state()))
    assert stopped.value.code == code and len(ended) == 1
    assert ("stops when the checkpoint is read" in capfd.readouterr().err) == (number == signal.SIGINT)


def data_file(folder, step):
    """The largest file of a step, where the arrays are."""
    files = [path for path in (folder / str(step) / "state").rglob("*") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_size)


def flip_a_bit(path, at=None):
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if at is None else at] ^= 1
    path.write_bytes(data)


def test_every_kind_of_leaf_comes_back_with_the_record(tmp_path):
    record = {"position": {"step": 3, "seen": (1, 2)}, "by number": {2: "a", 10: "b"}, "hash": "β"}
    checkpoints = Checkpoints(tmp_path, None)
    checkpoints.save(3, make_state(1), record)
    checkpoints.wait()
    restored = Checkpoints(tmp_path, None).restore(make_state(0))
    assert restored is not None
    state, read = restored
    assert_same(state, make_state(1))
    assert read["position"] == {"step": 3, "seen": [1, 2]}
    assert read["by number"] == {"2": "a", "10": "b"}
    assert read["hash"] == "β"
    assert (read["step"], read["sha256"]) == (3, tree_hash(make_state(1)))
    leaves = [(leaf["path"], leaf["shape"], leaf["dtype"], len(leaf["sum"])) for leaf in read["leaves"]]
    assert ("params/scale", [400], "bfloat16", 4) in leaves
    assert ("key", [], "key<fry>", 4) in leaves
    assert checkpoints.record(3) == read
    checkpoints.close()


def test_a_target_may_be_shapes_only(tmp_path):
    checkpoints = saved(tmp_path, [1])
    restored = checkpoints.restore(jax.eval_shape(make_state))
    assert restored is not None
    assert_same(restored[0], make_state(1))


@pytest.mark.parametrize("devices", [1, 8])
def test_the_state_may_be_donated_while_it_is_saved(tmp_path, devices):
    rows = NamedSharding(make_mesh(devices), PartitionSpec("data"))
    overwrite = jax.jit(lambda x: x * 0 - 7, donate_argnums=0)
    checkpoints = Checkpoints(tmp_path, None)
    for step in range(3):
        state = jax.device_put(np.arange(1 << 20, dtype=np.float32) + step, rows)
        checkpoints.save(step, {"x": state}, {})
        for _ in range(5):
            state = overwrite(state)
        jax.block_until_ready(state)
    checkpoints.close()
    for step in range(3):
        restored = checkpoints.restore({"x": jax.ShapeDtypeStruct((1 << 20,), jnp.float32)}, step)
        assert restored is not None
        np.testing.assert_array_equal(restored[0]["x"], np.arange(1 << 20, dtype=np.float32) + step)


def test_a_state_of_8_devices_restores_on_1_and_back(tmp_path):
    rows = NamedSharding(make_mesh(8), PartitionSpec("data"))
    value = {"w": np.arange(48, dtype=np.float32).reshape(16, 3), "key": jax.random.key(1)}
    on_8 = value | {"w": jax.device_put(value["w"], rows)}
    on_1 = jax.device_put(value, jax.devices()[0])
    assert tree_hash(on_8) == tree_hash(on_1) == tree_hash(value)

    checkpoints = Checkpoints(tmp_path, None)
    checkpoints.save(1, on_8, {})
    checkpoints.save(2, on_1, {})
    checkpoints.close()
    for step, target in ((1, on_1), (2, on_8)):
        restored = checkpoints.restore(target, step)
        assert restored is not None
        assert restored[0]["w"].sharding == target["w"].sharding
        assert_same(restored[0], on_1)


def test_only_the_newest_are_kept(tmp_path):
    assert saved(tmp_path / "two", [1, 2, 3], keep=2).steps() == [2, 3]
    assert saved(tmp_path / "all", [1, 2, 3]).steps() == [1, 2, 3]


def scored(folder, scores, keep=1):
    """Checkpoints of one process that saves these steps, each with a score, None for none."""
    checkpoints = Checkpoints(folder, keep, best="score")
    for step, score in scores.items():
        checkpoints.save(
            step, make_state(step), {} if score is None else {"metrics": {"score": score, "other": -score}}
        )
    checkpoints.close()
    return checkpoints


def test_the_best_by_a_figure_is_kept_beside_the_newest_across_restarts(tmp_path):
    assert scored(tmp_path, {1: 1.0, 2: 5.0, 3: None, 4: 2.0}).steps() == [2, 4]
    assert scored(tmp_path, {5: 4.0, 6: 3.0}).steps() == [2, 6]  # 5 is the best of this process, not of the run
    assert scored(tmp_path, {7: 6.0}).steps() == [7]
    assert scored(tmp_path, {8: None, 9: 6.0, 10: 1.0}, keep=2).steps() == [7, 9, 10]  # the earliest of equals
    assert Checkpoints(tmp_path, 1, best="score").best() == 7
    assert Checkpoints(tmp_path, 1, best="other").best() == 10
    assert Checkpoints(tmp_path, 1, best="absent").best() is None


def test_what_is_marked_stays_beside_the_newest_across_restarts(tmp_path):
    for steps in ((1, 2, 3, 4), (5, 6)):
        checkpoints = Checkpoints(tmp_path, 1, marked="epoch")
        for step in steps:
            checkpoints.save(step, make_state(step), {"epoch": 1} if step in (2, 5) else {})
        checkpoints.close()
    assert checkpoints.steps() == [2, 5, 6]


def test_a_damaged_best_gives_its_place_to_the_next(tmp_path):
    assert scored(tmp_path, {1: 5.0, 2: 4.0, 3: 1.0}, keep=2).steps() == [1, 2, 3]
    flip_a_bit(tmp_path / "1" / "record" / "metadata", at=0)
    assert scored(tmp_path, {4: 2.0}).steps() == [2, 4]


def test_a_step_that_exists_is_not_saved_again(tmp_path):
    checkpoints = saved(tmp_path, [1])
    checkpoints.save(1, make_state(5), {})
    checkpoints.save(2, make_state(2), {})
    checkpoints.save(2, make_state(5), {})  # while 2 is being written
    checkpoints.close()
    assert checkpoints.record(1)["sha256"] == tree_hash(make_state(1))
    assert checkpoints.record(2)["sha256"] == tree_hash(make_state(2))


def test_without_a_step_there_is_nothing_and_reading_makes_no_folder(tmp_path):
    checkpoints = Checkpoints(tmp_path / "none", 1)
    assert checkpoints.restore(make_state()) is None
    assert checkpoints.latest() is None
    assert checkpoints.steps() == []
    checkpoints.close()
    assert not (tmp_path / "none").exists()


def damage_by_a_flipped_bit(folder):
    flip_a_bit(data_file(folder, 2))


def damage_by_half_a_file(folder):
    path = data_file(folder, 2)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damage_by_a_missing_array_file(folder):
    data_file(folder, 2).unlink()


def damage_by_missing_arrays(folder):
    shutil.rmtree(folder / "2" / "state")


def damage_by_an_empty_folder(folder):
    (folder / "2").rename(folder / "away")
    (folder / "2").mkdir()


def damage_by_a_record_with_another_position(folder):
    path = folder / "2" / "record" / "metadata"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"position": 3}))


def damage_by_a_record_that_is_no_json(folder):
    flip_a_bit(folder / "2" / "record" / "metadata", at=0)


@pytest.mark.parametrize(
    "damage",
    [
        damage_by_a_flipped_bit,
        damage_by_half_a_file,
        damage_by_a_missing_array_file,
        damage_by_missing_arrays,
        damage_by_an_empty_folder,
        damage_by_a_record_with_another_position,
        damage_by_a_record_that_is_no_json,
    ],
)
def test_a_damaged_step_is_passed_over_and_the_run_can_go_on(tmp_path, capsys, damage):
    saved(tmp_path, [1, 2])
    damage(tmp_path)

    checkpoints = Checkpoints(tmp_path, keep=1)
    restored = checkpoints.restore(make_state())
    assert restored is not None
    assert_same(restored[0], make_state(1))
    assert restored[1]["position"] == 1
    warning = [line for line in capsys.readouterr().err.splitlines() if line.startswith(str(tmp_path))]
    assert len(warning) == 1
    assert "step 2 " in warning[0]
    assert warning[0].endswith("using step 1 instead")

    with pytest.raises(
        InputError, match=f"{tmp_path}: step 2 .*; delete {tmp_path}/2 and run .* from step 1; or name one of .1.$"
    ):
        Checkpoints(tmp_path, None).restore(make_state(), 2)
    checkpoints.save(2, make_state(7), {})  # the run gets to the same step again
    checkpoints.close()
    assert checkpoints.steps() == [2]
    restored = checkpoints.restore(make_state())
    assert restored is not None
    assert_same(restored[0], make_state(7))


def test_what_a_killed_save_left_is_no_step_and_the_next_save_removes_it(tmp_path, capsys):
    saved(tmp_path, [1, 2])
    (tmp_path / "2").rename(tmp_path / "2.orbax-checkpoint-tmp")  # under this name Orbax writes it
    checkpoints = Checkpoints(tmp_path, None)
    assert checkpoints.steps() == [1]
    restored = checkpoints.restore(make_state())
    assert restored is not None
    assert_same(restored[0], make_state(1))
    assert capsys.readouterr().err == ""  # nothing that was saved is lost
    checkpoints.save(2, make_state(7), {})
    checkpoints.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]
    assert checkpoints.record(2)["sha256"] == tree_hash(make_state(7))


def test_steps_of_which_none_is_intact_are_an_error(tmp_path):
    saved(tmp_path, [1, 2])
    for step in (1, 2):
        flip_a_bit(data_file(tmp_path, step))
    with pytest.raises(
        InputError, match=f"{tmp_path}: no checkpoint is intact .step 2 .*step 1 .*; delete {tmp_path} "
    ):
        Checkpoints(tmp_path, None).restore(make_state())


def test_a_named_step_that_is_missing_is_an_error(tmp_path):
    checkpoints = saved(tmp_path, [1])
    with pytest.raises(InputError, match=f"{tmp_path}: step 4 is missing; name one of .1."):
        checkpoints.restore(make_state(), 4)
    with pytest.raises(InputError, match="step 4 is missing"):
        checkpoints.record(4)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda params: params | {"kernel": jnp.zeros((8, 401))},
            r"leaf params/kernel is float32\[8, 400\] in the checkpoint and float32\[8, 401\] here; use ",
        ),
        (
            lambda params: params | {"scale": jnp.zeros(400)},
            r"leaf params/scale is bfloat16\[400\] in the checkpoint and float32\[400\] here",
        ),
        (
            lambda params: params | {"bias": jnp.zeros(400)},
            r"leaf params/bias is absent in the checkpoint and float32\[400\] here",
        ),
        (
            lambda params: {"kernel": params["kernel"]},
            r"leaf params/scale is bfloat16\[400\] in the checkpoint and absent here",
        ),
    ],
)
def test_other_leaves_than_the_checkpoint_has_are_an_error(tmp_path, change, sentence):
    checkpoints = saved(tmp_path, [1])
    state = make_state()
    with pytest.raises(InputError, match=f"{tmp_path / '1'}: {sentence}"):
        checkpoints.restore(state.replace(params=change(state.params)))


def test_a_step_whose_arrays_are_damaged_is_not_named_for_another(tmp_path):
    """Nor one with the damage that only its arrays show, and whichever is looked for."""
    checkpoints = saved(tmp_path, [1, 2, 3, 4])
    for step in (2, 4):
        flip_a_bit(data_file(tmp_path, step))
    words = (
        f"step 4 .*; delete {tmp_path}/4 and run the program that made it again, it continues from step 3; or name one"
    )
    for read in (lambda: checkpoints.restore(make_state(), 4), lambda: checkpoints.read("params", 4)):
        with pytest.raises(InputError, match=rf"{words} of .1, 3.$"):
            read()
    with pytest.raises(InputError, match=r"step 2 .* continues from step 1; or name one of .1, 3.$"):
        checkpoints.restore(make_state(), 2)
    checkpoints = saved(tmp_path / "record", [1, 2])
    damage_by_a_record_that_is_no_json(tmp_path / "record")
    with pytest.raises(InputError, match=rf"delete {tmp_path}/record/2 and run .* from step 1; or name one of .1.$"):
        checkpoints.record(2)


def test_a_step_is_not_named_beside_damaged_ones(tmp_path):
    checkpoints = saved(tmp_path, [1, 2, 3])
    damage_by_a_record_that_is_no_json(tmp_path)
    with pytest.raises(InputError, match=r"step 4 is missing; name one of .1, 3.$"):
        checkpoints.restore(make_state(), 4)
    shutil.rmtree(tmp_path / "1")
    shutil.rmtree(tmp_path / "3")
    with pytest.raises(
        InputError, match=f"step 2 .*; delete {tmp_path} and run .*, it starts over; or no other is intact"
    ):
        checkpoints.restore(make_state(), 2)


PART = {
    "lora": {"a": jnp.arange(12, dtype=jnp.bfloat16).reshape(3, 4), "by/name": jnp.ones(2)},
    "head": {},
    "layers": [jnp.arange(3), {}, (jnp.ones(()),)],
    "key": jax.random.key(7),
}


def with_parts(folder, steps=(1,)):
    checkpoints = Checkpoints(folder, None)
    for step in steps:
        noise = jnp.asarray(np.random.default_rng(step).normal(size=1 << 20), jnp.float32)
        parts = jax.tree.map(lambda x: x, PART) | {"step": jnp.int32(step)}
        checkpoints.save(step, State(jnp.int32(step), parts, {"mu": noise}, {"mu": noise}, None), {"position": step})
    checkpoints.close()
    return checkpoints


def bytes_read():
    """What this process has read from files so far."""
    return int(Path("/proc/self/io").read_text().split("rchar:")[1].split()[0])


def test_a_part_is_read_without_a_target_and_without_the_rest(tmp_path):
    checkpoints = with_parts(tmp_path)
    before = bytes_read() if Path("/proc/self/io").exists() else None
    part, record = checkpoints.read("params")
    if before is not None:
        assert bytes_read() - before < 1 << 20  # the rest has 8 MiB, which do not compress
    expected = PART | {"layers": [PART["layers"][0], {}, [PART["layers"][2][0]]], "step": jnp.int32(1)}
    assert_same(part, expected)
    assert record["position"] == 1
    assert all(leaf.devices() == {jax.local_devices()[0]} for leaf in jax.tree.leaves(part))
    assert_same(checkpoints.read("step")[0], jnp.int32(1))
    assert checkpoints.read("key")[0] is None
    with pytest.raises(InputError, match=r"1 holds no policy; name one of .*params"):
        checkpoints.read("policy")
    with pytest.raises(InputError, match=r"none holds no checkpoint; train it first"):
        Checkpoints(tmp_path / "none", None).read("params")


def test_a_part_is_placed_leaf_by_leaf(tmp_path):
    asked, mesh = {}, make_mesh(4)

    def place(path, shape):
        asked[path] = shape
        return NamedSharding(mesh, PartitionSpec("data") if shape == (1 << 20,) else PartitionSpec())

    checkpoints = with_parts(tmp_path)
    (mu,) = jax.tree.leaves(checkpoints.read("ema", place=place)[0])
    assert asked == {("mu",): (1 << 20,)} and mu.addressable_shards[0].data.shape == (1 << 18,)
    part, _ = checkpoints.read("params", place=place)
    assert asked[("key",)] == () and asked[("lora", "by/name")] == (2,) and asked[("layers", "2", "0")] == ()
    assert all(len(leaf.sharding.device_set) == 4 for leaf in jax.tree.leaves(part))
    np.testing.assert_array_equal(jax.random.key_data(part["key"]), jax.random.key_data(PART["key"]))


def test_a_damaged_part_is_passed_over_and_a_damaged_rest_is_not_seen(tmp_path, capsys):
    checkpoints = with_parts(tmp_path, [1, 2])
    flip_a_bit(data_file(tmp_path, 2))
    assert checkpoints.read("params")[1]["step"] == 2
    assert capsys.readouterr().err == ""
    parts = [checkpoints.read(name)[1]["step"] for name in ("ema", "opt_state")]
    assert sorted(parts) in ([1, 2], [1, 1])  # the bit is in the one, or in a file that both need
    assert "step 2 " in capsys.readouterr().err


def test_a_part_of_other_bytes_than_were_saved_is_damaged(tmp_path):
    checkpoints = with_parts(tmp_path, [1])
    other = with_parts(tmp_path / "others", [1, 2])
    shutil.rmtree(tmp_path / "1" / "state")
    shutil.copytree(other.folder / "2" / "state", tmp_path / "1" / "state")
    with pytest.raises(
        InputError, match=r"step 1 holds other bytes of params than were saved; delete .* or no other is intact"
    ):
        checkpoints.read("params", 1)


READS = """
import sys
from pathlib import Path
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from rlhf_jax.runtime import Checkpoints, join_processes, make_mesh, place
address, process, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
join_processes(address, 2, process)
mesh = make_mesh(4)
state = {"params": {"w": np.arange(8, dtype=np.float32), "head": {}}, "rest": np.ones(5)}
checkpoints = Checkpoints(folder, None)
checkpoints.save(1, place(state, mesh, lambda path, ndim: ("data",) * ndim), {})
checkpoints.close()
here, _ = checkpoints.read("params")
assert here["head"] == {} and here["w"].devices() == {jax.local_devices()[0]}
np.testing.assert_array_equal(here["w"], np.arange(8))
rows = NamedSharding(mesh, PartitionSpec("data"))
cut, record = checkpoints.read("params", 1, lambda path, shape: rows)
assert not cut["w"].is_fully_addressable
for shard in cut["w"].addressable_shards:
    np.testing.assert_array_equal(shard.data, np.arange(8)[shard.index])
print("read", record["sha256"])
"""


@pytest.mark.slow
def test_two_processes_read_a_part_each_or_together(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", READS, address, str(process), tmp_path / "run"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for process in (0, 1)
    ]
    try:
        said = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    state = {"params": {"w": np.arange(8, dtype=np.float32), "head": {}}, "rest": np.ones(5, np.float32)}
    # Gloo prints lines of its own.
    assert [out.splitlines()[-1:] for out, _ in said] == [[f"read {tree_hash(state)}"]] * 2, said


KILLED = """
import os, sys
import jax.numpy as jnp, numpy as np
from pathlib import Path
from rlhf_jax.runtime import Checkpoints
checkpoints = Checkpoints(Path(sys.argv[1]), None)
checkpoints.save(1, {"x": jnp.arange(4096.0)}, {})
checkpoints.wait()
noise = np.random.default_rng(0).normal(size=1 << 24)  # takes a while to write
checkpoints.save(2, {"x": jnp.asarray(noise, jnp.float32)}, {})
print("saving", flush=True)
checkpoints.wait()
print("saved", flush=True)
"""


def test_a_run_killed_while_it_saves_continues_from_the_step_before(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "XLA_FLAGS": ""}
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, tmp_path], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "saving\n"
    time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.stdout.read() == ""  # it was killed before the end of the save
    process.wait()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("2")] != ["2"]

    checkpoints = Checkpoints(tmp_path, None)
    target = {"x": jax.ShapeDtypeStruct((4096,), jnp.float32)}
    restored = checkpoints.restore(target)
    assert restored is not None
    np.testing.assert_array_equal(restored[0]["x"], np.arange(4096.0))
    checkpoints.save(3, {"x": jnp.arange(4096.0) + 3}, {})
    checkpoints.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "3"]  # no rubbish of the killed run
    restored = checkpoints.restore(target)
    assert restored is not None
    np.testing.assert_array_equal(restored[0]["x"], np.arange(4096.0) + 3)


def test_a_full_disk_is_one_sentence_and_the_step_before_is_intact(small_disk):
    checkpoints = Checkpoints(small_disk.folder / "run", None)
    checkpoints.save(1, {"x": jnp.arange(1000.0)}, {})
    checkpoints.wait()
    checkpoints.save(2, {"x": jax.random.normal(jax.random.key(0), (1 << 20,))}, {})
    sentence = "the disk is full; free some space and run the same command again, it continues from step 1$"
    with pytest.raises(InputError, match=f"cannot write to {small_disk.folder / 'run'}: {sentence}"):
        checkpoints.wait()
    checkpoints.close()

    again = Checkpoints(small_disk.folder / "run", None)
    restored = again.restore({"x": jax.ShapeDtypeStruct((1000,), jnp.float32)})
    assert restored is not None
    np.testing.assert_array_equal(restored[0]["x"], np.arange(1000.0))
    again.save(2, {"x": jnp.arange(1000.0)}, {})  # there is space for this one
    again.close()
    assert again.steps() == [1, 2]


def test_a_disk_without_a_byte_left_is_one_sentence(small_disk):
    small_disk.fill()
    checkpoints = Checkpoints(small_disk.folder, None)
    with pytest.raises(InputError, match=r"the disk is full.*it starts over$"):  # noqa: PT012
        checkpoints.save(1, {"x": jnp.arange(10.0)}, {})
        checkpoints.wait()
    checkpoints.close()


def test_a_read_only_disk_is_one_sentence_and_can_be_read(small_disk):
    saved(small_disk.folder, [1])
    small_disk.make_read_only()
    threads = set(threading.enumerate())
    checkpoints = Checkpoints(small_disk.folder, None)
    restored = checkpoints.restore(make_state())
    assert restored is not None
    assert_same(restored[0], make_state(1))
    with pytest.raises(InputError, match=r"it is on a read-only disk; .* continues from step 1$"):  # noqa: PT012
        checkpoints.save(2, make_state(2), {})
        checkpoints.wait()
    checkpoints.close()
    # The program can end. An executor's idle thread (asyncio_0) does not hold it up: Python wakes it at the end.
    left = [thread for thread in set(threading.enumerate()) - threads if not thread.daemon]
    assert not [thread for thread in left if not thread.name.startswith("asyncio_")]
