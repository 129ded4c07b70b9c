"""The code that a GPU or a TPU runs, as far as a CPU can tell: which branch is taken, and that each computes the same."""

from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo as cudnn
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from experiments import sweep
from rlhf_jax.models import LanguageModel, attention, hidden_states
from rlhf_jax.models.attention import attend
from rlhf_jax.models.linear import matmul
from rlhf_jax.models.placement import platform
from rlhf_jax.runtime import make_mesh
from tests.models.conftest import LLAMA, shapes

XLA = jax.nn.dot_product_attention


def arguments(T, S, E, dtype, heads=4, groups=2):
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=s) for s in ((2, T, heads, E), (2, groups, S, E), (2, groups, S, E)))
    allowed = np.arange(S)[None, None, :] <= np.arange(T)[None, :, None] + S - T
    return *(jnp.asarray(x, dtype) for x in (q, k, v)), jnp.asarray(np.broadcast_to(allowed, (2, T, S)))


@pytest.fixture
def gpu(monkeypatch):
    """A GPU of a capability, whose cuDNN refuses what JAX says it refuses and computes as XLA does; what was asked for."""

    def of(capability):
        asked = []

        def dot_product_attention(q, k, v, *, mask, scale, implementation):
            asked.append(implementation)
            if implementation == "cudnn":  # as JAX does before a gradient, with the mask as a bias
                layout = cudnn.AttentionLayout.BTNH
                cudnn.check_layout(q, k, v, *[None] * 7, layout)  # which takes half precision only
                cudnn.check_is_flash_attention(q, k, v, layout.value, 91000, True, True)
            return XLA(q, k, v, mask=mask, scale=scale, implementation="xla")

        device = SimpleNamespace(platform="gpu", compute_capability=capability)
        monkeypatch.setattr(attention, "platform", lambda: "gpu")
        monkeypatch.setattr(jax, "devices", lambda: [device])
        monkeypatch.setattr(cudnn, "check_compute_capability", lambda least: float(capability) >= float(least))
        monkeypatch.setattr(cudnn, "is_cuda_compute_capability_equal", lambda other: capability == other)
        monkeypatch.setattr(jax.nn, "dot_product_attention", dot_product_attention)
        return asked

    return of


@pytest.mark.parametrize(
    ("capability", "T", "S", "E", "dtype", "implementation"),
    [
        ("8.0", 6, 6, 64, "bfloat16", "cudnn"),
        ("8.0", 6, 6, 128, "float16", "cudnn"),
        ("8.0", 7, 7, 64, "bfloat16", "xla"),  # odd rows
        ("8.0", 6, 7, 64, "bfloat16", "xla"),  # odd keys of a cache
        ("8.0", 6, 6, 256, "bfloat16", "xla"),  # Gemma's heads on an A100
        ("9.0", 6, 6, 256, "bfloat16", "cudnn"),  # and on an H100
        ("10.0", 6, 6, 256, "bfloat16", "cudnn"),
        ("9.0", 6, 6, 264, "bfloat16", "xla"),
        ("9.0", 6, 6, 12, "bfloat16", "xla"),  # no multiple of 8
        ("9.0", 6, 6, 64, "float32", "xla"),
        ("9.0", 1, 6, 64, "bfloat16", "xla"),  # decoding
    ],
)
def test_attention_on_a_gpu(gpu, capability, T, S, E, dtype, implementation):
    asked = gpu(capability)
    q, k, v, allowed = arguments(T, S, E, dtype)
    found = attend(q, k, v, allowed, E**-0.5, None)
    assert asked == [implementation]
    ours = attend(q, k, v, allowed, E**-0.5, None, library=False)
    tolerance = {"float32": 1e-5, "bfloat16": 0.03, "float16": 0.004}[dtype]
    np.testing.assert_allclose(*(np.asarray(x, np.float32) for x in (found, ours)), atol=tolerance)


@pytest.mark.parametrize(
    ("where", "cap", "asks"), [("tpu", None, 1), ("tpu", 5.0, 0), ("gpu", 5.0, 0), ("cpu", None, 0)]
)
def test_who_attends_elsewhere(gpu, monkeypatch, where, cap, asks):
    """A TPU through XLA; scores with a cap, and a CPU, through our own products."""
    asked = gpu("9.0")
    monkeypatch.setattr(attention, "platform", lambda: where)
    attend(*arguments(6, 6, 64, "bfloat16"), 0.125, cap)
    assert asked == ["xla"] * asks


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("result", [None, jnp.float32])
def test_products_are_the_same_on_every_platform(monkeypatch, dtype, result):
    x, w = (jnp.asarray(np.random.default_rng(i).normal(size=s), dtype) for i, s in enumerate(((2, 3, 8), (8, 5))))

    found = {}
    for where in ("cpu", "gpu", "tpu"):
        monkeypatch.setattr("rlhf_jax.models.linear.platform", lambda where=where: where)

        def both(x, w):
            return jax.value_and_grad(lambda *xw: jnp.sum(jnp.sin(matmul(*xw, result).astype(jnp.float32))), (0, 1))(
                x, w
            )

        found[where] = both(x, w)
        assert ("optimization_barrier" in str(jax.make_jaxpr(both)(x, w))) == (where == "cpu")
        assert matmul(x, w, result).dtype == (result or dtype)
    chex.assert_trees_all_close(found["gpu"], found["cpu"], rtol=1e-2 if dtype == "bfloat16" else 1e-6)
    chex.assert_trees_all_equal(found["gpu"], found["tpu"])


@pytest.mark.parametrize(
    ("of", "name"), [("tpu", "tpu"), ("cuda", "gpu"), ("rocm", "gpu"), ("gpu", "gpu"), ("cpu", "cpu")]
)
def test_the_platform_is_the_mesh_s(monkeypatch, of, name):
    """And a model is traced with that platform's code."""
    asked = []
    monkeypatch.setattr(jax.nn, "dot_product_attention", lambda *qkv, **how: asked.append(how) or XLA(*qkv, **how))
    device = AbstractDevice(device_kind="any", num_cores=None, platform=of)
    axes = AbstractMesh((2, 1, 1), ("data", "fsdp", "tensor"), (AxisType.Auto,) * 3, abstract_device=device)
    tokens, model = jnp.ones((2, 4), jnp.int32), LanguageModel(LLAMA)
    with jax.sharding.use_abstract_mesh(axes):
        assert platform() == name
        program = str(jax.make_jaxpr(lambda p: hidden_states(model, p, tokens, tokens > 0)[0])(shapes(model)))
    assert ("optimization_barrier" in program) == (name == "cpu")  # of our products on a CPU
    assert (asked == []) == (name == "cpu")


def test_without_a_mesh_it_is_jax_s(monkeypatch):
    with jax.set_mesh(make_mesh(1)):
        assert platform() == "cpu"
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert platform() == "tpu"


@pytest.mark.parametrize(("where", "devices", "one_core"), [("cpu", 2, True), ("cpu", 1, False), ("gpu", 2, False)])
def test_a_sweep_has_a_core_for_each_of_a_cpu_s_devices(monkeypatch, where, devices, one_core):
    monkeypatch.setattr(jax, "default_backend", lambda: where)
    monkeypatch.setattr(jax, "jit", lambda fn, **options: options)
    options = sweep.program(lambda *arguments: arguments, 1, make_mesh(devices))["compiler_options"]
    assert options == ({"xla_cpu_multi_thread_eigen": False} if one_core else None)
