"""The arrays that travel between rooms, as frozen pytrees, and the dimension letters that every shape uses.

    B  rows of a batch (prompts, episodes, or rows of text)
    T  tokens of a row; of a response, when the array is one number per response token
    P  tokens of a prompt, padded on the left
    K  answers ranked for one prompt
    C  categories of a classifier
    V  vocabulary
    D  width of the model

Every [B, T] array of a response is aligned to its token yₜ. Masks are bool, True where the entry counts.
"""

from typing import TYPE_CHECKING, Any

from flax import struct
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Key, PyTree
from numpy import ndarray

if TYPE_CHECKING:  # the shapes and dtypes of these are checked when they are used, not by the type checker
    AnyArray = Any
    Scalar = Any
else:
    AnyArray = Array | ndarray  # data make NumPy arrays, which become JAX arrays at the device's edge
    Scalar = ArrayLike  # a Python number, or an array of the shape given


@struct.dataclass
class TextBatch:
    """Rows of text and the tokens that are to be predicted. Rows start at column 0; padding, if any, is on the right."""

    tokens: Int[AnyArray, "*B T"]
    predict: Bool[AnyArray, "*B T"]  # True where the token at this very column enters the loss


@struct.dataclass
class PromptBatch:
    """Prompts, padded on the left so that the response starts at one column."""

    tokens: Int[AnyArray, "*B P"]
    mask: Bool[AnyArray, "*B P"]


@struct.dataclass
class RankingBatch:
    """K ranked answers for each prompt, and such as were made up to stand below them all; the slots left over are empty."""

    tokens: Int[AnyArray, "*B K T"]  # prompt and answer, padded on the right
    mask: Bool[AnyArray, "*B K T"]  # False everywhere in an empty slot
    ranks: Int[AnyArray, "*B K"]  # 1 is best, equal ranks are ties; 0: an empty slot; −1: made up


@struct.dataclass
class LabelBatch:
    """Rows of text and what is known of each in each category."""

    tokens: Int[AnyArray, "*B T"]  # padded on the right
    mask: Bool[AnyArray, "*B T"]
    labels: Bool[AnyArray, "*B C"]
    known: Bool[AnyArray, "*B C"]  # False: nobody has said


@struct.dataclass
class PairBatch:
    """Two answers to each prompt, the preferred one first, and what the reference model makes of them."""

    chosen: TextBatch  # prompt ⊕ answer; the answer's tokens are those to predict
    rejected: TextBatch
    ref_chosen: Float[AnyArray, "*B"]  # log π_ref(y_w|x), nats; 0 where there is no reference
    ref_rejected: Float[AnyArray, "*B"]


@struct.dataclass
class JudgedBatch:
    """Single answers that were liked or not, and answers of other prompts, for an estimate of the KL."""

    rows: TextBatch  # prompt ⊕ answer; the answer's tokens are those to predict
    desirable: Bool[AnyArray, "*B"]
    ref: Float[AnyArray, "*B"]  # log π_ref(y|x), nats
    mismatched: TextBatch  # prompt ⊕ an answer to another prompt
    ref_mismatched: Float[AnyArray, "*B"]


@struct.dataclass
class Repetition:
    """What a response's repetition penalty was, and the tokens that it fell on at each column."""

    penalty: Float[AnyArray, "*B"]
    since: Int[AnyArray, "*B V"]  # the first column that it fell on each token: 0 for those of the prompt; T: on none


@struct.dataclass
class Response:
    """What a policy wrote after a batch of prompts, up to and with its EOS, and the transform of the logits that it was
    drawn through, which every later log-probability of it goes through as well."""

    tokens: Int[AnyArray, "*B T"]
    mask: Bool[AnyArray, "*B T"]
    logp: Float[AnyArray, "*B T"]  # nats, under the distribution that was sampled from
    temperature: Float[AnyArray, "*B"]
    support: Bool[AnyArray, "*B T V"] | None  # the tokens that top-k, top-p and min-p left; None: all of them
    repetition: Repetition | None = None  # None: no penalty


@struct.dataclass
class MaskedTextBatch:
    """Rows with some tokens hidden, for masked language modelling."""

    inputs: Int[AnyArray, "*B T"]
    tokens: Int[AnyArray, "*B T"]  # what stood there
    predict: Bool[AnyArray, "*B T"]


@struct.dataclass
class TrainState:
    """Everything that supervised training carries from step to step. Arrays only: it compares, saves and maps as it is."""

    step: Int[AnyArray, "*S"]
    params: PyTree
    opt_state: PyTree
    key: Key[Array, "*S"]  # the root: every draw is fold_in(key, step)


@struct.dataclass
class Moments:
    """What is kept of a stream of numbers, for its mean and variance."""

    count: Float[AnyArray, "*S"]
    mean: Float[AnyArray, "*S"]
    squares: Float[AnyArray, "*S"]  # Σ (x − mean)²


@struct.dataclass
class PPOState:
    """Everything that PPO carries from iteration to iteration. Without a value network, its two are None."""

    step: Int[AnyArray, "*S"]  # iterations
    policy: PyTree
    policy_opt: PyTree
    value: PyTree
    value_opt: PyTree
    ema: PyTree  # moving average of the policy
    ema_weight: Float[AnyArray, "*S"]  # what its updates weigh together; 0 before the first, see `equations.ema`
    kl_scale: Float[AnyArray, "*S"]  # factor on β, moved by the adaptive controller
    scores: Moments  # of the reward model's scores, by which they are normalised
    stopped: Bool[AnyArray, "*S"]  # this iteration's updates went too far: the policy learns no more in it
    key: Key[Array, "*S"]


@struct.dataclass
class PPOBatch:
    """What the outside gives an iteration: prompts, and rows of pretraining text for each of them (None: no mix)."""

    prompts: PromptBatch
    pretrain: TextBatch | None  # [B, rows, T]


@struct.dataclass
class PerAnswer:
    """A number for each answer, or for each of its tokens, among the metrics of an iteration: records of rollouts have it,
    curves do not."""

    numbers: Float[AnyArray, "B *T"]


@struct.dataclass
class Experience:
    """Finished answers with everything that the losses need of them. Rows are answers. Without a value network, values
    and returns are None."""

    tokens: Int[AnyArray, "*B L"]  # prompt ⊕ response
    mask: Bool[AnyArray, "*B L"]
    response: Response
    logp_sft: Float[AnyArray, "*B T"]
    values: Float[AnyArray, "*B T"] | None  # V(sₜ) when the answer was written
    advantages: Float[AnyArray, "*B T"]
    returns: Float[AnyArray, "*B T"] | None
    pretrain: TextBatch | None
