"""softmax(q·k)·v of grouped queries."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rlhf_jax.models.placement import platform


def attend(
    q_bthe: Float[Array, "B T h E"],
    k_bkse: Float[Array, "B k S E"],
    v_bkse: Float[Array, "B k S E"],
    allowed_bts: Bool[Array, "B T S"],
    scale: float,
    cap: float | None,
    library: bool | None = None,
) -> Float[Array, "B T h E"]:
    """Scores and softmax in float32. A token that may look at nothing gets a uniform row, not NaN.

    library: through jax.nn.dot_product_attention, on a GPU cuDNN's where that can (`cudnn_can`), else XLA's; by default
    wherever there is an accelerator and no cap on the scores, which it does not know. On a CPU our own products train faster.
    """
    if library is None:
        library = cap is None and platform() != "cpu"
    if library:
        flash = platform() == "gpu" and q_bthe.shape[1] > 1 and cudnn_can(q_bthe, k_bkse)
        return jax.nn.dot_product_attention(
            q_bthe,
            k_bkse.swapaxes(1, 2),
            v_bkse.swapaxes(1, 2),
            mask=allowed_bts[:, None],
            scale=scale,
            implementation="cudnn" if flash else "xla",
        )
    B, T, H, E = q_bthe.shape
    K = k_bkse.shape[1]
    q_bkgte = q_bthe.reshape(B, T, K, H // K, E).transpose(0, 2, 3, 1, 4)
    scores_bkgts = jnp.einsum("bkgte,bkse->bkgts", q_bkgte, k_bkse, preferred_element_type=jnp.float32) * scale
    if cap is not None:
        scores_bkgts = cap * jnp.tanh(scores_bkgts / cap)
    scores_bkgts = jnp.where(allowed_bts[:, None, None, :, :], scores_bkgts, -1e30)
    weights_bkgts = jax.nn.softmax(scores_bkgts, axis=-1).astype(v_bkse.dtype)
    return jnp.einsum("bkgts,bkse->bkgte", weights_bkgts, v_bkse).transpose(0, 3, 1, 2, 4).reshape(B, T, H, E)


def cudnn_can(q_bthe: Float[Array, "B T h E"], k_bkse: Float[Array, "B k S E"]) -> bool:
    """Whether cuDNN's attention takes these: half precision, heads of a multiple of 8 and at most 128 numbers (256 from
    Hopper on), and, for the gradient under a mask, even numbers of queries and keys. The others JAX refuses with an
    exception, some of them only when the gradient is taken."""
    E, lengths = q_bthe.shape[-1], (q_bthe.shape[1], k_bkse.shape[2])
    half = q_bthe.dtype in (jnp.bfloat16, jnp.float16)
    if not half or E % 8 or any(n % 2 for n in lengths):
        return False
    return E <= 128 or (E <= 256 and float(getattr(jax.devices()[0], "compute_capability", 0)) >= 9)
